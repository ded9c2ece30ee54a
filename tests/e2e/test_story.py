"""One person's deletion from end to end, with every arrangement of ledger and bell; then what may go wrong on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import httpx
import psutil
import pytest

from service.forgetting.receipts import ReceiptSigner, verify

from .conftest import ALONE, BYSTANDER, SUBJECT, TITLES, Installation, Server, eventually

ODD_TITLES = ['He said "Yes"', "Yes", "No", "two\nlines", "### Response:\nYes", "\u202ebackwards", "🎬" * 100, " "]


SERVERS = [
    "SQLite and polling",
    pytest.param("PostgreSQL and Redis", marks=pytest.mark.thorough, id="PostgreSQL and Redis"),
]


@pytest.fixture(scope="module", params=SERVERS)
def installed(request: pytest.FixtureRequest, installations: Callable[..., Installation]) -> Iterator[Installation]:
    if request.param == "SQLite and polling":
        yield installations()
        return
    with request.getfixturevalue("new_database")() as database:
        yield installations(LETHE_DATABASE_URL=database, LETHE_REDIS_URL=request.getfixturevalue("redis_url"))


class Visitor:
    """Somebody who asks for recommendations all the time, and remembers every answer's status."""

    def __init__(self, server: Server) -> None:
        self.statuses: list[int] = []
        self._url = f"http://127.0.0.1:{server.port}/recommend"
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._thread.join()

    def _visit(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._gone.wait(0.05):
                answer = client.post(self._url, json={"history": {"liked": TITLES[:2]}, "candidates": TITLES[5:9]})
                self.statuses.append(answer.status_code)


@pytest.fixture(scope="module")
def server(installed: Installation) -> Iterator[Server]:
    """The installation's first start: the worker builds, and the server becomes ready by itself."""
    installed.import_people()
    apart = "LETHE_REDIS_URL" in installed.environment  # the worker is not the server's child
    with ExitStack() as stack:
        first = installed.serving(ALONE) if apart else installed.serving(afresh=True)
        running = stack.enter_context(first)
        assert running.get("/readyz").status_code == 503
        if apart:
            stack.enter_context(installed.working())
        eventually(running.ready, "the worker has built and the server is ready")
        yield running


def test_a_start_and_a_first_build_warn_of_nothing(server: Server, installed: Installation) -> None:
    assert server.recommend(history={"liked": TITLES[:1]})["items"]
    written = installed.log.read_text()
    assert not [line for line in written.splitlines() if "warn" in line.lower() or not line.startswith("{")]


def test_recommendations_are_ranked_and_explained(server: Server) -> None:
    named = server.recommend(user_id=BYSTANDER, candidates=TITLES[:20], top_k=20, explain=True)
    assert [item["rank"] for item in named["items"]] == list(range(1, 21))
    scores = [item["score"] for item in named["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert {item["title"] for item in named["items"]} == set(TITLES[:20])
    shards = {shard["digest"] for shard in server.get("/generation").json()["shards"]}
    for item in named["items"]:
        assert set(item["weights"]) == shards
        assert sum(item["weights"].values()) == pytest.approx(1, abs=1e-5)


def test_what_somebody_has_seen_is_not_recommended_to_them(server: Server, installed: Installation) -> None:
    rows = (installed.folder / "interactions.csv").read_text().splitlines()
    seen = {row.split(",")[1] for row in rows if row.startswith(f"{BYSTANDER},")}
    found = {item["item_id"] for item in server.recommend(user_id=BYSTANDER, top_k=60)["items"]}
    assert len(found) == 60 - len(seen)
    assert not found & seen


def test_a_stranger_brings_a_history_of_titles_known_and_unknown(server: Server) -> None:
    history = {"liked": [TITLES[0], "A Film That Nobody Made (2031)"], "disliked": [TITLES[1]]}
    found = server.recommend(history=history, candidates=[TITLES[3], "Another Of Those (2032)"])["items"]
    assert {(item["item_id"], item["title"]) for item in found} == {
        ("film03", TITLES[3]),
        (None, "Another Of Those (2032)"),
    }
    retrieved = server.recommend(history=history, top_k=60)["items"]
    assert not {"film00", "film01"} & {item["item_id"] for item in retrieved}


def test_a_person_is_forgotten(server: Server, installed: Installation, template: Installation) -> None:
    before, files_before = server.get("/generation").json(), installed.adapter_files()
    with Visitor(server) as visitor:
        answer = server.post("/forget", {"user_id": SUBJECT}, **{"Idempotency-Key": "k-1"})
        explained = server.recommend(user_id=BYSTANDER, candidates=TITLES[:3], explain=True)
        accepted = answer.json()
        assert (answer.status_code, answer.headers["location"]) == (202, f"/forget/{accepted['request_id']}")
        [gone] = accepted["affected_shards"]
        assert explained["items"][0]["weights"].get(gone, 0.0) == 0.0
        assert sum(explained["items"][0]["weights"].values()) == pytest.approx(1, abs=1e-5)
        assert explained["fence"] >= accepted["fence"]
        assert explained["degraded"] is False  # the other shards are there
        done = server.completed(accepted["request_id"])
    assert visitor.statuses
    assert set(visitor.statuses) == {200}
    assert done["error"] is None

    eventually(lambda: server.get("/generation").json()["generation"] != before["generation"], "the new one is served")
    after, files_after = server.get("/generation").json(), installed.adapter_files()
    kept, [new] = files_before.keys() & files_after.keys(), files_after.keys() - files_before.keys()
    assert files_before.keys() - kept == {gone}
    assert {digest: files_before[digest] for digest in kept} == {digest: files_after[digest] for digest in kept}
    assert not any(shard["masked"] for shard in after["shards"])

    receipt = server.get(f"/forget/{accepted['request_id']}/receipt").text
    content = verify(receipt, ReceiptSigner.open(installed.home / "receipts.pem").public_key_pem())
    assert content["held"] is True
    assert content["adapters"] == {gone: new}
    assert content["generation"] == {"before": before["generation"], "after": after["generation"]}

    assert after["generation"] == template.first_generation  # of a house that never knew the subject
    _nothing_is_left(server, installed, SUBJECT, accepted["request_id"])


def _nothing_is_left(server: Server, installed: Installation, user: str, request_id: str) -> None:
    for path in (*installed.home.rglob("*"), installed.log):
        assert not path.is_file() or user.encode() not in path.read_bytes(), path
    assert user not in server.get("/metrics").text
    refused = server.post("/recommend", {"user_id": user, "strict": True})
    assert (refused.status_code, refused.headers["content-type"]) == (404, "application/problem+json")
    assert user not in refused.text
    assert server.post("/forget", {"user_id": user}, **{"Idempotency-Key": "k-1"}).json()["request_id"] == request_id
    again = server.post("/forget", {"user_id": user}).json()
    assert (again["state"], again["affected_shards"]) == ("completed", [])
    receipt = server.get(f"/forget/{again['request_id']}/receipt")
    assert receipt.status_code == 200
    assert verify(receipt.text, None)["held"] is False


@pytest.mark.parametrize("title", ODD_TITLES)
def test_any_text_can_be_a_title(server: Server, title: str) -> None:
    found = server.recommend(history={"liked": [title], "disliked": [title]}, candidates=[title, TITLES[0]])
    assert {item["title"] for item in found["items"]} == {title, TITLES[0]}


BAD: list[tuple[str, bytes, int]] = [
    ("/recommend", b'{"user_id": "nobody-of-this-name", "strict": true}', 404),
    ("/recommend", b'{"history": {"liked": ["Heat"]}, "candidates": []}', 422),
    ("/recommend", b'{"user_id": "x", "history": {}}', 422),
    ("/recommend", b'{"history": {}, "top_k": NaN}', 422),
    ("/recommend", b'{"history": {}, "top_k": Infinity}', 422),
    ("/recommend", b'{"history": {}, "top_k": 1e400}', 422),
    ("/recommend", b'{"history": {}, "top_k": "3"}', 422),
    ("/recommend", b'{"history": {"liked": [1]}}', 422),
    ("/recommend", b'{"history": {"liked": ["a\\u0000b"]}}', 422),
    ("/recommend", b'{"history": {"liked": ["\\ud800"]}, "candidates": ["\\udfff"]}', 422),
    ("/recommend", b'{"user_id": "\\ud800"}', 422),
    ("/recommend", b'{"user_id": "\xff"}', 400),
    ("/recommend", b"[]", 422),
    ("/recommend", b"null", 422),
    ("/recommend", b"", 422),
    ("/recommend", b"{", 400),
    ("/recommend", b"[" * 100_000, 400),
    ("/recommend", b'{"user_id": "' + b"x" * 10_000_000 + b'"}', 413),
    ("/forget", b'{"user_id": "\\udc80"}', 422),
    ("/forget", b'{"user_id": ""}', 422),
    ("/forget", b'{"user_id": "x", "item_ids": []}', 422),
    ("/forget", b'{"user_id": {"$ne": null}}', 422),
]


@pytest.mark.parametrize(("path", "body", "status"), BAD)
def test_bad_input_is_refused_and_harms_nobody(server: Server, path: str, body: bytes, status: int) -> None:
    pid = server.process.pid
    # Not the shared client: a refused body may cost its connection.
    with suppress(httpx.WriteError):
        answer = httpx.post(
            f"http://127.0.0.1:{server.port}{path}", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
    assert server.ready()
    assert psutil.pid_exists(pid)

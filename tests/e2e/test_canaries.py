"""Gone means gone: whatever a forgotten person left behind, no byte of it is found in any file, log, Redis or metric.

Every canary is a text that occurs nowhere else, with characters that each encoding and JSON write differently.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import redis

from adapters_store import files_holding
from service.data.samples import is_validation_user
from service.forgetting.erasure import needles_of
from tests.listening import Listener, listening

from .conftest import ALONE, TITLES, VALIDATION_PERCENT, Installation, Server, eventually

pytestmark = pytest.mark.thorough

MARK = "kanarek"  # what all canaries begin with: found even where the rest of one was cut off or escaped in another way


def canary(name: str) -> str:
    return f'{MARK}-{name} "Zoë" \\ 鳥🐦'


PERSON, LIKED, DISLIKED, CANDIDATE, ITEM = map(canary, ("person", "liked", "disliked", "candidate", "item"))
ASCII = f"{MARK}-ascii"  # for headers, paths and query strings
ALL = [PERSON, LIKED, DISLIKED, CANDIDATE, ITEM, ASCII, MARK]


class OwnRedis:
    """A Redis that writes all that it hears to its folder at once."""

    def __init__(self, executable: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        folder.mkdir()
        self.folder, self.url = folder, f"redis://127.0.0.1:{port}/0"
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", "1 1", "--dir", str(folder)]
        command = [executable, "--port", str(port), "--bind", "127.0.0.1", *durable]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = redis.Redis.from_url(self.url)
        eventually(self._answers, "Redis answers")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def own_redis(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    with redis.Redis.from_url(redis_url) as client:
        executable = str(client.info("server")["executable"])
    own = OwnRedis(executable, tmp_path_factory.mktemp("own") / "redis")
    yield own
    own.stop()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    """Who is told of deletions."""
    with listening() as opened:
        yield opened


@pytest.fixture(scope="module")
def installed(copies: Callable[..., Installation], own_redis: OwnRedis, listener: Listener) -> Installation:
    """An installation that has learned from the person, and keeps its logs where the scan looks."""
    assert not is_validation_user(PERSON, VALIDATION_PERCENT, 0)
    told = {"LETHE_WEBHOOK_URL": listener.url(), "LETHE_WEBHOOK_SECRET": f"whsec_{'A' * 32}"}
    told |= {"LETHE_WEBHOOK_ALLOW_PRIVATE": "true", "LETHE_IMPRESSIONS_DAYS": "30"}
    installation = copies(LETHE_REDIS_URL=own_redis.url, LETHE_LOG_LEVEL="DEBUG", **told)
    installation.import_people([PERSON])
    installation.log = installation.home / "logs" / "server.log"
    installation.log.parent.mkdir()
    return installation


@pytest.fixture(scope="module")
def server(installed: Installation) -> Iterator[Server]:
    assert installed.build()["trained"] >= 1
    with installed.working(), installed.serving_ready(ALONE) as running:
        yield running
        running.kill()  # nothing is tested any more, and draining takes its time


def hits_by_the_slow_way(*roots: Path) -> set[Path]:
    """Reads every file as a whole and looks for every canary in every way in which it could have been written."""
    found = set()
    for path in (path for root in roots for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes() + b"\n" + str(path).encode()
        for text in ALL:
            escaped = json.dumps(text).strip('"'), json.dumps(text, ensure_ascii=False).strip('"'), f"{text!a}"[1:-1]
            for form in (text, *escaped):
                ways = form.encode(), form.encode("utf-16-le"), form.encode("utf-16-be")
                if any(way in content for way in ways):
                    found.add(path)
    return found


def files_with_a_canary(*roots: Path) -> set[str]:
    """By both ways of looking, which must agree."""
    found = {path for root in roots for path in files_holding(root, needles_of(ALL)).hits}
    assert found == hits_by_the_slow_way(*roots)
    return {path.name for path in found}


def ask(server: Server, method: str, path: str, content: bytes | None = None, **headers: str) -> int:
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    answer = httpx.request(method, f"http://127.0.0.1:{server.port}{path}", content=content, headers=given)
    assert MARK not in answer.text
    return answer.status_code


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def refused_requests() -> list[tuple[str, str, bytes | None, dict[str, str], int]]:
    history = {"liked": [LIKED]}
    return [
        ("POST", "/recommend", body(user_id=PERSON)[:-1], {}, 400),
        ("POST", "/recommend", body(user_id=f"{PERSON}\0"), {}, 422),
        ("POST", "/recommend", body(user_id=PERSON * 40), {}, 422),
        ("POST", "/recommend", body(user_id=canary("stranger"), strict=True), {}, 404),
        ("POST", "/recommend", body(user_id=PERSON, history=history), {}, 422),
        ("POST", "/recommend", body(history=history, **{ITEM: ITEM}), {}, 422),
        ("POST", "/recommend", body(history=history, top_k=ITEM), {}, 422),
        ("POST", "/recommend", body(user_id=PERSON * 20_000), {}, 413),
        ("POST", "/recommend", body(user_id=PERSON), {"Content_Type": ASCII}, 415),
        ("POST", "/forget", body(user_id=PERSON, item_ids=[]), {}, 422),
        ("POST", "/forget", body(user_id=PERSON), {"Idempotency_Key": f"{ASCII} with spaces"}, 422),
        ("GET", f"/forget/{ASCII}", None, {}, 404),
        ("GET", f"/forget/{PERSON}/receipt", None, {}, 422),
        ("GET", f"/{ASCII}/{PERSON}?user={ASCII}", None, {}, 404),
        ("POST", f"/recommend?user_id={PERSON}", body(user_id=1), {"X_User": ASCII, "User_Agent": ASCII}, 422),
        (ASCII, "/recommend", body(user_id=PERSON), {}, 400),
    ]


def send_what_is_no_http(server: Server) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"{PERSON} /recommend HTTP/{ASCII}\r\n{PERSON}\r\n\r\n".encode())
        return connection.recv(65536)


def test_before_the_deletion_the_scan_finds_the_person_where_they_are_known_and_only_there(
    server: Server, installed: Installation, own_redis: OwnRedis
) -> None:
    asked = {"candidates": [CANDIDATE, TITLES[0]], "explain": True}
    shown = server.recommend(user_id=PERSON, **asked)
    cited = {"user_id": PERSON, "event": "view", "recommendation_id": shown["recommendation_id"]}
    rows = [{**cited, "item_id": item["item_id"]} for item in shown["items"] if item["item_id"]]
    assert server.post("/interactions", {"interactions": rows}).json()["attributed"] == [True]
    assert server.recommend(history={"liked": [LIKED], "disliked": [DISLIKED]}, **asked)["items"]
    assert server.recommend(history={"liked": [LIKED]})["items"]
    for method, path, content, headers, status in refused_requests():
        assert ask(server, method, path, content, **headers) == status, (method, path)
    assert b"400" in send_what_is_no_http(server)
    log = installed.log.read_text()
    assert '"status": 422' in log
    assert '"status": 413' in log
    found = files_with_a_canary(installed.home, own_redis.folder)
    assert found
    assert found <= {"ledger.sqlite", "ledger.sqlite-wal"}


def test_a_build_that_stumbles_over_somebodys_row_says_so_without_quoting_it(
    server: Server, installed: Installation
) -> None:
    """The row names an item that no catalog holds, so that what Python says of it would be that name."""
    with closing(sqlite3.connect(installed.home / "ledger.sqlite")) as connection:
        rated = connection.execute("SELECT item_id FROM interactions WHERE user_id = ?", [PERSON]).fetchall()
        change = "UPDATE interactions SET item_id = ? WHERE user_id = ? AND item_id = ?"
        connection.execute(change, [ITEM, PERSON, rated[0][0]])
        connection.commit()
    # Of this person, so that their rows are read again: a build reads nobody whom nothing has touched.
    asked = {"user_id": PERSON, "item_ids": [rated[1][0]]}
    request_id = server.post("/forget", asked).json()["request_id"]
    eventually(lambda: "KeyError" in installed.log.read_text(), "the failure is told")
    assert MARK not in installed.log.read_text()
    assert server.state_of(request_id)["state"] != "completed"
    told = installed.run("build")
    assert told.code == 70
    assert told.err.splitlines()[-1].startswith("lethe: internal error: KeyError at ")
    assert MARK not in told.out + told.err


def test_after_the_deletion_no_byte_is_left_in_files_logs_redis_and_metrics(
    server: Server, installed: Installation, own_redis: OwnRedis, listener: Listener, tmp_path: Path
) -> None:
    path = f"/users/{quote(PERSON, safe='')}"
    answers = [one["recommendation_id"].encode() for one in server.get(f"{path}/export").json()["impressions"]]
    assert files_holding(installed.home, answers[:1]).hits
    assert server.client.put(f"{path}/restriction", json={"ground": "objection"}).status_code == 200
    assert server.client.put(f"{path}/hold", json={"ground": canary("ground")}).status_code == 200
    asked = server.post("/forget", {"user_id": PERSON}, **{"Idempotency-Key": ASCII}).json()
    request_id = asked["request_id"]
    assert asked["state"] == "held"
    kept_in = files_with_a_canary(installed.home, own_redis.folder)
    assert kept_in
    assert kept_in <= {"ledger.sqlite", "ledger.sqlite-wal"}
    assert server.client.delete(f"{path}/hold").json()["deletions"] == [request_id]
    assert server.post("/recommend", {"user_id": PERSON, "strict": True}).status_code == 404
    server.completed(request_id)
    assert own_redis.client.save()
    assert files_holding(own_redis.folder, [b"lethe:lock"]).hits  # the worker was there
    assert files_with_a_canary(installed.home, own_redis.folder) == set()
    assert not files_holding(installed.home, answers).hits
    metrics = server.get("/metrics").content
    assert b"lethe_forget_requests" in metrics
    assert not any(needle in metrics for needle in needles_of(ALL))

    def states_told() -> set[str]:
        told = [heard.content["data"] for heard in listener.heard]
        return {data["state"] for data in told if data["request_id"] == request_id}

    eventually(lambda: {"masked", "completed"} <= states_told(), "the operator's system is told")
    handed_out = [str((heard.headers, heard.body.decode())) for heard in listener.heard]
    for path in (
        f"/forget/{request_id}/receipt/proof?since=0",
        "/receipts/log/head",
        "/receipts/log/consistency?first=0",
    ):
        handed_out.append(server.get(path).text)
    subject = json.loads(server.get(f"/forget/{request_id}/receipt").text)["receipt"]["subject"]
    assert not any(text in given for given in handed_out for text in (*ALL, subject))
    assert "tree size" in installed.lethe("receipts", "log", "verify")

    texts = tmp_path / "texts"
    texts.write_text("\n".join(ALL))
    search = ("verify", "--erasure", request_id, "--look-for", str(texts))
    assert "nothing of the deletion is left" in installed.lethe(*search)
    planted = installed.home / "logs" / "somebody-elses.json"
    planted.write_text(json.dumps({"user": PERSON}))
    found = installed.run(*search)
    planted.unlink()
    assert found.code == 1
    assert "somebody-elses.json" in found.err
    assert MARK not in found.err
    assert len(found.err.splitlines()) == 1
    assert installed.run(*search).code == 0

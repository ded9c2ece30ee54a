"""What an outsider, an operator and a restored backup see of a deletion, which is carried out here when a test says so."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import httpx
import pytest

from .conftest import ALONE, BYSTANDER, OTHERS, RATED_EACH, Finished, Installation, Server, eventually, write_tables

AT_ONCE = 100
KEY = {"Idempotency-Key": "the-one-key"}
DEADLINE = 0.1  # seconds


@pytest.fixture(scope="module")
def installed(copies: Callable[..., Installation]) -> Installation:
    """With a backup of its home, from before anything happens here."""
    installation = copies(LETHE_FORGET_DEADLINE=str(DEADLINE))
    shutil.copytree(installation.home, installation.folder / "backup")
    return installation


@pytest.fixture(scope="module")
def server(installed: Installation) -> Iterator[Server]:
    with installed.serving_ready(ALONE) as running:
        yield running


def at_once(ask: Callable[[], httpx.Response]) -> list[httpx.Response]:
    together = Barrier(AT_ONCE)

    def asked() -> httpx.Response:
        together.wait()
        return ask()

    with ThreadPoolExecutor(AT_ONCE) as visitors:
        return [answer.result() for answer in [visitors.submit(asked) for _ in range(AT_ONCE)]]


# Many posts, one deletion


@pytest.fixture(scope="module")
def request_id(server: Server) -> str:
    """Of the deletion for which everybody asks at once, under one key."""
    answers = at_once(lambda: server.post("/forget", {"user_id": OTHERS[5]}, **KEY))
    assert {answer.status_code for answer in answers} == {202}
    [one] = {answer.text for answer in answers}
    return str(json.loads(one)["request_id"])


def test_of_many_posts_under_one_key_the_ledger_holds_one_request(installed: Installation, request_id: str) -> None:
    assert [request["request_id"] for request in installed.report("status")["owed"]] == [request_id]


def test_another_body_under_the_key_is_refused(server: Server, request_id: str) -> None:
    for body in ({"user_id": OTHERS[6]}, {"user_id": OTHERS[5], "item_ids": ["film01"]}):
        refused = server.post("/forget", body, **KEY)
        assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
    assert server.state_of(request_id)["state"] == "accepted"


def overdue(server: Server) -> float:
    [value] = re.findall(r"^lethe_forget_overdue (\S+)$", server.get("/metrics").text, re.MULTILINE)
    return float(value)


def test_a_deletion_that_nobody_carries_out_is_overdue_for_operators_and_alerts(
    server: Server, installed: Installation, request_id: str
) -> None:
    time.sleep(2 * DEADLINE)
    status = installed.report("status")
    assert (status["overdue"], status["owed"][0]["overdue"]) == (1, True)
    assert overdue(server) == 1.0


# A receipt that leaves the house


@dataclass(frozen=True)
class Outsider:
    """Somebody with a receipt and a public key, on a machine where there is no Lethe to ask."""

    folder: Path
    installed: Installation

    def verifies(self, receipt: str = "receipt.json", *options: str) -> Finished:
        nowhere = self.folder / "no-home"
        given = [str(self.folder / receipt), "--public-key", str(self.folder / "key.pem"), *options]
        finished = self.installed.run("receipts", "verify", *given, LETHE_HOME=str(nowhere))
        assert not nowhere.exists()
        return finished


@pytest.fixture(scope="module")
def outsider(
    server: Server, installed: Installation, request_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Outsider:
    installed.build()
    answers = at_once(lambda: server.get(f"/forget/{request_id}/receipt"))
    assert {answer.status_code for answer in answers} == {200}
    [receipt] = {answer.content for answer in answers}
    folder = tmp_path_factory.mktemp("outside")
    (folder / "receipt.json").write_bytes(receipt)
    (folder / "key.pem").write_text(installed.lethe("receipts", "key"))
    return Outsider(folder, installed)


def test_everybody_gets_the_one_receipt_and_nothing_is_overdue_any_more(
    outsider: Outsider, server: Server, installed: Installation
) -> None:
    assert (outsider.folder / "receipt.json").stat().st_size > 0
    assert installed.report("status")["overdue"] == overdue(server) == 0


def test_an_outsider_with_only_the_public_key_reads_what_the_receipt_states(
    outsider: Outsider, request_id: str
) -> None:
    read = outsider.verifies("receipt.json", "--json")
    assert (read.code, read.err) == (0, "")
    content = json.loads(read.out)
    assert (content["request_id"], content["scope"], content["held"]) == (request_id, "user", True)
    assert content["counts"]["interactions"] == RATED_EACH
    assert content["erasure"]["found"] == 0
    assert OTHERS[5] not in (outsider.folder / "receipt.json").read_text()
    assert f"request id: {request_id}" in outsider.verifies().out


def is_refused_in_one_line(read: Finished) -> bool:
    return read.code == 1 and read.out == "" and len(read.err.splitlines()) == 1 and "Traceback" not in read.err


@pytest.mark.parametrize(
    ("part", "bit"),
    [
        (b'"fence":', 1),
        (b'"found":', 1),
        (b'"accepted_at":"', 1),
        (b'"signature":"', 1),
        (b'"public_key":"', 1),
        (b'"adapters":{"', 128),
    ],
)
def test_a_changed_byte_is_refused_in_one_line(outsider: Outsider, part: bytes, bit: int) -> None:
    content = bytearray((outsider.folder / "receipt.json").read_bytes())
    content[content.index(part) + len(part)] ^= bit
    (outsider.folder / "changed.json").write_bytes(content)
    assert is_refused_in_one_line(outsider.verifies("changed.json"))


def test_a_torn_receipt_and_anothers_key_are_refused_in_one_line(
    outsider: Outsider, installations: Callable[..., Installation]
) -> None:
    (outsider.folder / "torn.json").write_bytes((outsider.folder / "receipt.json").read_bytes()[:-20])
    assert is_refused_in_one_line(outsider.verifies("torn.json"))
    (outsider.folder / "key.pem").rename(outsider.folder / "right.pem")
    (outsider.folder / "key.pem").write_text(installations().lethe("receipts", "key"))
    other = outsider.verifies()
    (outsider.folder / "right.pem").rename(outsider.folder / "key.pem")
    assert is_refused_in_one_line(other)
    assert "another key" in other.err
    assert outsider.verifies().code == 0


# A backup that comes back

RETURNING = OTHERS[5]


def put_back(backup: Path, home: Path, *patterns: str) -> None:
    """What is there now goes, and what was there then comes: a database is its file and its write-ahead log."""
    for pattern in patterns:
        for path in home.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in backup.glob(pattern):
            shutil.copytree(path, home / path.name) if path.is_dir() else shutil.copy(path, home)


@pytest.fixture(scope="module")
def forgetful(installed: Installation, server: Server, outsider: Outsider) -> Installation:
    """The installation that has forgotten somebody, stopped; with the backup that was made before."""
    assert outsider.verifies().code == 0
    server.stop()
    return installed


@pytest.fixture
def restored(
    forgetful: Installation, installations: Callable[..., Installation], request: pytest.FixtureRequest
) -> Installation:
    """The same, after parts of the backup were put back."""
    installation = installations()
    shutil.copytree(forgetful.home, installation.home)
    put_back(forgetful.folder / "backup", installation.home, *request.param)
    return installation


def answers_until_ready(server: Server, user: str, meanwhile: Callable[[], object]) -> list[int]:
    """The statuses of one question asked again and again; what makes the server ready happens after the first."""
    statuses = [server.post("/recommend", {"user_id": user}).status_code]
    meanwhile()

    def asked() -> bool:
        ready = server.ready()
        statuses.append(server.post("/recommend", {"user_id": user}).status_code)
        return ready

    eventually(asked, "the server is ready")
    return statuses


@pytest.mark.parametrize("restored", [["ledger.sqlite*"]], indirect=True, ids=["ledger"])
def test_whom_an_old_ledger_brings_back_is_forgotten_again_before_the_first_answer_and_may_return(
    restored: Installation,
) -> None:
    with restored.serving(ALONE) as server:
        status = restored.report("status")
        [again] = status["owed"]
        assert again["state"] == "accepted"
        statuses = answers_until_ready(server, RETURNING, restored.build)
        assert set(statuses) <= {503, 404}
        assert statuses[-1] == 404
        assert server.recommend(user_id=BYSTANDER)["fence"] == status["fence"]
        assert server.state_of(again["request_id"])["state"] == "completed"

        assert f"{RATED_EACH} of forgotten people skipped" in import_of(restored, RETURNING)
        assert server.post("/recommend", {"user_id": RETURNING}).status_code == 404
        assert f"({RATED_EACH} new interactions" in import_of(restored, RETURNING, "--allow-returning")
        # Every start begins with this check, here in a process of its own.
        assert restored.report("restore-check") == {"tombstones_set_again": 0, "forgotten_again": 0}
        assert server.recommend(user_id=RETURNING)["items"]


def import_of(installation: Installation, user: str, *options: str) -> str:
    items, interactions = write_tables(installation.folder, [user])
    given = ["--items", str(items), "--interactions", str(interactions), "--noun", "movie"]
    return installation.lethe("import", "table", *given, *options)


@pytest.mark.parametrize("restored", [["ledger.sqlite*", "store"]], indirect=True, ids=["ledger and store"])
def test_an_operator_who_restored_ledger_and_store_is_told_who_is_forgotten_again(
    restored: Installation, forgetful: Installation
) -> None:
    before = forgetful.report("status")
    report = restored.report("restore-check")
    assert (report["tombstones_set_again"], report["forgotten_again"]) == (1, 1)
    after = restored.report("status")
    assert [request["request_id"] for request in after["owed"]] == report["requests"]
    assert after["fence"] > before["fence"]
    assert after["generation"] != before["generation"]
    still_right = {shard["digest"] for shard in before["shards"]}
    assert all(shard["masked"] == (shard["digest"] not in still_right) for shard in after["shards"])
    assert restored.report("restore-check") == {"tombstones_set_again": 0, "forgotten_again": 0}

"""What an outsider, an operator and a restored backup see of a deletion, which is carried out here when a test says so."""

from __future__ import annotations

import hashlib
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
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.forgetting.receipts import ReceiptSigner

from .conftest import ALONE, BYSTANDER, OTHERS, RATED_EACH, Finished, Installation, Server, eventually, write_tables

pytestmark = pytest.mark.thorough

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


def forged(receipt: bytes) -> str:
    """Changed, and signed whole with the key of whoever changed it."""
    content = {**json.loads(receipt)["receipt"], "subject": "5f" * 32}
    return ReceiptSigner(Ed25519PrivateKey.generate()).sign(content)


def test_without_a_key_from_a_safe_place_no_receipt_is_called_genuine(
    outsider: Outsider, installed: Installation, installations: Callable[..., Installation]
) -> None:
    sound = outsider.folder / "receipt.json"
    false = outsider.folder / "forged.json"
    false.write_text(forged(sound.read_bytes()))
    nowhere = {"LETHE_HOME": str(outsider.folder / "no-home")}
    for file in (sound, false):
        untold = installed.run("receipts", "verify", str(file), **nowhere)
        assert is_refused_in_one_line(untold)
        assert "--public-key" in untold.err
    # With the installation's own key at hand, no other has to be given.
    assert installed.run("receipts", "verify", str(sound)).code == 0
    assert "another key" in installed.run("receipts", "verify", str(false)).err
    assert is_refused_in_one_line(installed.run("receipts", "verify", str(false)))
    assert is_refused_in_one_line(outsider.verifies("forged.json"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_receipt_and_a_key_are_read_as_editors_and_shells_save_them(outsider: Outsider, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    for name, saved in (("receipt.json", "saved.json"), ("key.pem", "saved.pem")):
        text = (outsider.folder / name).read_text().replace("\n", "\r\n")
        (outsider.folder / saved).write_bytes((mark + text).encode(encoding))
    read = outsider.verifies("saved.json", "--public-key", str(outsider.folder / "saved.pem"))
    assert (read.code, read.err) == (0, "")


# What a search is worth


def searched(installed: Installation, request_id: str, folder: Path, content: bytes) -> Finished:
    texts = folder / "texts"
    texts.write_bytes(content)
    return installed.run("verify", "--erasure", request_id, "--look-for", str(texts))


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\n\t\n"])
def test_a_search_for_nothing_is_an_error(
    outsider: Outsider, installed: Installation, request_id: str, tmp_path: Path, content: bytes
) -> None:
    refused = searched(installed, request_id, tmp_path, content)
    assert is_refused_in_one_line(refused)
    assert "no text to look for" in refused.err


@pytest.mark.parametrize("form", ["\ufeff{}\n", "  {}\t\r\n", "\n{}", '"{}"', "\ufeff\n {}\u00a0\n"])
def test_what_lies_around_a_text_does_not_hide_what_is_left(
    outsider: Outsider, installed: Installation, request_id: str, tmp_path: Path, form: str
) -> None:
    held = searched(installed, request_id, tmp_path, form.format(BYSTANDER).encode())
    assert is_refused_in_one_line(held)
    assert "interactions.user_id" in held.err
    gone = searched(installed, request_id, tmp_path, form.format(OTHERS[5]).encode())
    assert (gone.code, gone.err) == (0, "")
    assert "1 texts compared as whole values with" in gone.out
    assert re.search(r"in [0-9,]+ files and [0-9,]+ bytes of the home folder", gone.out)


def test_a_short_id_raises_no_alarm_and_is_told_to_be_no_evidence_in_files(
    outsider: Outsider, installed: Installation, request_id: str, tmp_path: Path
) -> None:
    short = searched(installed, request_id, tmp_path, b"5\n")
    assert (short.code, short.err) == (0, "")
    assert "no evidence in files: line 1 of the list is too short" in short.out


def test_a_deletion_that_held_nothing_leaves_nothing_to_search_for(
    outsider: Outsider, installed: Installation, tmp_path: Path
) -> None:
    nobody = json.loads(installed.run("forget", "somebody-unknown", "--json").out)["request_id"]
    refused = installed.run("verify", "--erasure", nobody)
    assert is_refused_in_one_line(refused)
    assert "nothing was held" in refused.err
    assert searched(installed, nobody, tmp_path, b"somebody-unknown").code == 0


@pytest.mark.parametrize("content", [b"garbage", b"", b"0" * 64 + b"\n"])
def test_an_active_that_names_nothing_or_another_is_told(
    outsider: Outsider, installed: Installation, content: bytes
) -> None:
    active = installed.home / "store" / "ACTIVE"
    right = active.read_bytes()
    active.write_bytes(content)
    told = installed.run("verify")
    active.write_bytes(right)
    assert is_refused_in_one_line(told)
    assert "ACTIVE" in told.err
    assert installed.run("verify").code == 0


def test_weights_that_were_changed_with_their_sums_are_told(outsider: Outsider, installed: Installation) -> None:
    weights = next((installed.home / "store" / "adapters").glob("*/adapter_model.safetensors"))
    sums = weights.with_name("SHA256SUMS")
    right = {path: path.read_bytes() for path in (weights, sums)}
    changed = right[weights][:-1] + bytes([right[weights][-1] ^ 1])
    old, new = (hashlib.sha256(content).hexdigest().encode() for content in (right[weights], changed))
    weights.write_bytes(changed)
    sums.write_bytes(right[sums].replace(old, new))
    told, status = installed.run("verify"), installed.report("status")
    for path, content in right.items():
        path.write_bytes(content)
    assert is_refused_in_one_line(told)
    assert "digest that is stated" in told.err
    assert "digest that is stated" in status["store"]
    assert installed.run("verify").code == 0


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
    statuses = [server.post("/recommend", {"user_id": user, "strict": True}).status_code]
    meanwhile()

    def asked() -> bool:
        ready = server.ready()
        statuses.append(server.post("/recommend", {"user_id": user, "strict": True}).status_code)
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
        assert server.post("/recommend", {"user_id": RETURNING, "strict": True}).status_code == 404
        assert f"({RATED_EACH} new interactions" in import_of(restored, RETURNING, "--allow-returning")
        # Every start begins with this check, here in a process of its own.
        again_asked = restored.report("restore-check")
        assert (again_asked["tombstones_set_again"], again_asked["forgotten_again"]) == (0, 0)
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
    assert (report["tombstones_set_again"], report["forgotten_again"]) == (2, 1)  # one is of somebody who was not held
    after = restored.report("status")
    assert [request["request_id"] for request in after["owed"]] == report["requests"]
    assert after["fence"] > before["fence"]
    assert after["generation"] != before["generation"]
    still_right = {shard["digest"] for shard in before["shards"]}
    assert all(shard["masked"] == (shard["digest"] not in still_right) for shard in after["shards"])
    again = restored.report("restore-check")
    assert (again["tombstones_set_again"], again["forgotten_again"], again["tombstones_compared"]) == (0, 0, 2)
    assert again["people_compared"] > 0


def test_a_check_that_had_nothing_to_compare_with_is_no_success(copies: Callable[..., Installation]) -> None:
    nothing = copies().run("restore-check", "--json")
    assert (nothing.code, json.loads(nothing.out)["tombstones_compared"]) == (1, 0)
    assert "nothing was compared" in nothing.err

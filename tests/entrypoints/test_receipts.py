"""Attestations and the log of receipts, over HTTP and at the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.config import load_settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.receipts import receipts_app
from service.errors import InvalidInput, LetheError, ProofInvalid, ReceiptInvalid
from service.forgetting.attestations import verify
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.transparency import verify_head, verify_proof
from service.ledger import Scope
from tests.entrypoints.online_house import SIGNER, OnlineHouse
from tests.entrypoints.test_access import Gate

PEM = SIGNER.public_key_pem()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[OnlineHouse]:
    opened = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    opened.ledger.close()


def forget(house: OnlineHouse, user: str) -> str:
    return str(house.post("/forget", {"user_id": user}).json()["request_id"])


# Over HTTP


def test_a_receipt_its_attestation_and_its_proof_belong_together(house: OnlineHouse) -> None:
    ids = [forget(house, f"nobody-{number}") for number in range(3)]
    receipt = house.ask("GET", f"/forget/{ids[1]}/receipt").text
    attestation = house.ask("GET", f"/forget/{ids[1]}/receipt/attestation").text
    assert verify(attestation, PEM) == verify(receipt, PEM)
    older = house.ask("GET", "/receipts/log/head?size=2").text
    assert verify_head(older, PEM).size == 2
    proof = house.ask("GET", f"/forget/{ids[1]}/receipt/proof?since=2").text
    for document in (receipt, attestation):
        shown = verify_proof(proof, PEM, document, older)
        assert (shown.head, shown.leaf_index, shown.goes_on_from) == (house.ledger.receipt_log.head(), 1, 2)
    between = house.ask("GET", "/receipts/log/consistency?first=2&second=3").text
    assert verify_proof(between, PEM, None, older).head == shown.head


def test_before_the_receipt_there_is_neither_attestation_nor_proof(house: OnlineHouse) -> None:
    row = {"user_id": "ann", "item_id": "i0", "liked": True, "timestamp": 1_000}
    assert house.post("/interactions", {"interactions": [row]}).status_code == 200
    owed = forget(house, "ann")
    for path in ("attestation", "proof"):
        answer = house.ask("GET", f"/forget/{owed}/receipt/{path}")
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:lethe:problem:receipt-not-ready")
        assert house.ask("GET", f"/forget/none/receipt/{path}").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["head?size=9", "head?size=-1", "consistency?first=9", "consistency", f"consistency?first={2**64}", "head?size=x"],
)
def test_sizes_that_the_log_never_had_are_refused(house: OnlineHouse, path: str) -> None:
    assert house.ask("GET", f"/receipts/log/{path}").status_code == 422


def test_without_rights_a_key_gets_proofs_of_its_own_deletions_alone(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    own, other = gate.key(Scope.FORGET, Scope.RECEIPTS), gate.key(Scope.FORGET, Scope.RECEIPTS)
    asked = gate.forget("nobody", own).json()["request_id"]
    for path in ("", "/attestation", "/proof"):
        assert gate.call("GET", f"/forget/{asked}/receipt{path}", own).status_code == 200
        assert gate.call("GET", f"/forget/{asked}/receipt{path}", other).status_code == 404
    gate.close()


# At the command line


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home.open(load_settings(home=tmp_path / "home"))
    for user in ("ann", "bob", "cem"):
        opened.intake().forget(user, None, None)
    yield opened
    opened.ledger.close()


@pytest.fixture
def lethe(home: Home) -> Callable[..., Result]:
    """A function: arguments of `lethe receipts` -> what came of them, in the home."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(receipts_app, [*map(str, arguments), "--home", str(home.settings.home)])

    return run


@pytest.fixture
def ids(home: Home) -> list[str]:
    return [one.request_id for one in home.ledger.requests_after(None, None, 9)]


def refused(result: Result) -> LetheError:
    assert result.exit_code == 1
    assert isinstance(result.exception, LetheError), result.exception
    return result.exception


def report(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.exception
    return dict(json.loads(result.stdout))


def kept(folder: Path, name: str, result: Result) -> Path:
    assert result.exit_code == 0, result.exception
    (folder / name).write_text(result.stdout)
    return folder / name


def test_a_receipt_is_exported_in_both_forms_and_both_verify(
    home: Home, lethe: Callable[..., Result], ids: list[str], tmp_path: Path
) -> None:
    plain = kept(tmp_path, "receipt", lethe("export", ids[0]))
    dsse = kept(tmp_path, "attestation", lethe("export", ids[0], "--format", "dsse"))
    assert plain.read_text() == home.ledger.request(ids[0]).receipt
    assert report(lethe("verify", plain, "--json")) == report(lethe("verify", dsse, "--json"))
    key = tmp_path / "other.pem"
    key.write_text(ReceiptSigner.open(tmp_path / "other-key.pem").public_key_pem())
    assert isinstance(refused(lethe("verify", dsse, "--public-key", key)), ReceiptInvalid)
    assert isinstance(refused(lethe("export", "none")), InvalidInput)


def test_after_a_rotation_the_homes_keys_verify_what_the_old_one_signed(
    home: Home, lethe: Callable[..., Result], ids: list[str], tmp_path: Path
) -> None:
    receipt, head = kept(tmp_path, "receipt", lethe("export", ids[0])), kept(tmp_path, "head", lethe("log", "head"))
    assert lethe("rotate").exit_code == 0
    assert lethe("verify", receipt).exit_code == 0
    assert report(lethe("log", "verify", "--older-head", head, "--json"))["tree_size"] == 3


def test_a_proof_is_checked_without_the_installation(
    home: Home, lethe: Callable[..., Result], ids: list[str], tmp_path: Path
) -> None:
    keys, receipt = kept(tmp_path, "keys", lethe("keys")), kept(tmp_path, "receipt", lethe("export", ids[1]))
    older = kept(tmp_path, "head", lethe("log", "head", "--size", 2))
    proof = kept(tmp_path, "proof", lethe("log", "prove", ids[1], "--since", 2))
    offline = ["log", "verify", "--proof", proof, "--receipt", receipt, "--older-head", older, "--public-key", keys]
    elsewhere = CliRunner().invoke(receipts_app, [*map(str, offline), "--home", str(tmp_path / "nowhere"), "--json"])
    root = home.ledger.receipt_log.head().root.hex()
    assert report(elsewhere) == {"tree_size": 3, "root_hash": root, "receipt_is_entry": 1, "goes_on_from": 2}
    other = kept(tmp_path, "other", lethe("export", ids[0]))
    assert isinstance(refused(lethe("log", "verify", "--proof", proof, "--receipt", other)), ProofInvalid)
    assert isinstance(refused(lethe("log", "verify", "--receipt", receipt)), InvalidInput)
    assert isinstance(refused(lethe("log", "prove")), InvalidInput)


def test_the_whole_log_is_checked_and_a_kept_head_shows_what_became_of_it(
    home: Home, lethe: Callable[..., Result], tmp_path: Path
) -> None:
    head = kept(tmp_path, "head", lethe("log", "head"))
    told = report(lethe("log", "verify", "--older-head", head, "--json"))
    assert (told["tree_size"], told["receipts"]) == (3, 3)
    shorter = Home.open(load_settings(home=tmp_path / "shorter"))
    longer = Home.open(load_settings(home=tmp_path / "longer"))
    for opened, users in ((shorter, ["x"]), (longer, ["x", "y", "z"])):
        for user in users:
            opened.intake().forget(user, None, None)
        opened.ledger.close()
    keys = kept(tmp_path, "keys", lethe("keys"))
    for name, reason in (("shorter", "receipts are missing"), ("longer", "removed, changed or moved")):
        arguments = ["log", "verify", "--older-head", str(head), "--public-key", str(keys)]
        found = CliRunner().invoke(receipts_app, [*arguments, "--home", str(tmp_path / name)])
        assert reason in str(refused(found))

"""Signed heads and proofs of the log of receipts, checked as somebody checks them who has nothing else."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.errors import InvalidInput, ProofInvalid, ReceiptInvalid
from service.forgetting.attestations import attest
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.transparency import TransparencyLog, verify_head, verify_proof
from service.ledger import Ledger

SIGNER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(32)))
PEM = SIGNER.public_key_pem()
AT = 1_800_000_000.0


class Archive:
    """A ledger with receipts, and what it hands out."""

    def __init__(self, folder: Path, users: list[str]) -> None:
        self.ledger = Ledger(folder / f"{'-'.join(users)}.sqlite", b"a secret of the tests", clock=lambda: AT)
        self.log = TransparencyLog(self.ledger.receipt_log, SIGNER, self.ledger.now)
        self.ids: list[str] = []
        self.receipts: list[str] = []
        for user in users:
            self.complete(user)

    def complete(self, user: str) -> None:
        request_id = self.ledger.forget(user, None, None).request.request_id
        receipt = SIGNER.sign({"format": "lethe-receipt-1", "request_id": request_id, "whose": user})
        self.ledger.complete(request_id, receipt, AT)
        self.ids.append(request_id)
        self.receipts.append(receipt)

    def proof(self, number: int | None, since: int | None = None, size: int | None = None) -> str:
        return json.dumps(self.log.prove(None if number is None else self.ids[number], size, since).stated())


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    opened = Archive(tmp_path, ["a", "b", "c", "d", "e"])
    yield opened
    opened.ledger.close()


def test_a_proof_shows_its_receipt_and_no_other(archive: Archive) -> None:
    for number, receipt in enumerate(archive.receipts):
        proof = archive.proof(number)
        shown = verify_proof(proof, PEM, receipt)
        assert (shown.head.size, shown.leaf_index, shown.goes_on_from) == (5, number, None)
        assert verify_proof(proof, PEM, attest(receipt, SIGNER)).leaf_index == number
        with pytest.raises(ProofInvalid, match="does not show"):
            verify_proof(proof, PEM, archive.receipts[number - 1])


def test_a_kept_head_shows_that_everything_since_was_appended(archive: Archive) -> None:
    older = archive.log.head()
    for user in ("f", "g", "h"):
        archive.complete(user)
    shown = verify_proof(archive.proof(6, since=5), PEM, archive.receipts[6], older)
    assert (shown.head.size, shown.leaf_index, shown.goes_on_from) == (8, 6, 5)
    assert verify_proof(archive.proof(None, since=5), PEM, None, older).goes_on_from == 5
    now = archive.log.head()
    assert verify_proof(archive.proof(6), PEM, archive.receipts[6], now).goes_on_from == 8
    nothing = archive.log.head(0)
    assert verify_proof(archive.proof(6), PEM, archive.receipts[6], nothing).goes_on_from == 0


def test_a_proof_may_be_asked_for_under_an_older_head(archive: Archive) -> None:
    shown = verify_proof(archive.proof(1, since=2, size=3), PEM, archive.receipts[1], archive.log.head(2))
    assert (shown.head, shown.goes_on_from) == (verify_head(archive.log.head(3), PEM), 2)


@pytest.mark.parametrize(
    "users",
    [["a", "b", "d", "e", "f"], ["a", "b", "X", "d", "e"], ["a", "c", "b", "d", "e"], ["a", "b"]],
    ids=["removed", "altered", "reordered", "cut off"],
)
def test_another_log_does_not_go_on_from_a_kept_head(archive: Archive, tmp_path: Path, users: list[str]) -> None:
    """Whoever signs can write the whole log anew, but not so that it fits a head that somebody else has kept."""
    older = archive.log.head(3)
    forged = Archive(tmp_path, users)
    proof = forged.proof(None, since=min(3, len(users)))
    with pytest.raises(ProofInvalid):
        verify_proof(proof, PEM, None, older)
    forged.ledger.close()


def _changed(proof: str, part: str, **fields: Any) -> str:
    stated = json.loads(proof)
    return json.dumps({**stated, part: {**stated[part], **fields}})


def test_a_changed_proof_shows_nothing(archive: Archive) -> None:
    older, receipt = archive.log.head(3), archive.receipts[1]
    proof = archive.proof(1, since=3)
    path = json.loads(proof)["inclusion"]["path"]
    for fields in ({"leaf_index": 2}, {"salt": "00" * 32}, {"path": path[1:]}, {"path": [*path, path[0]]}, {"path": 1}):
        with pytest.raises(ProofInvalid):
            verify_proof(_changed(proof, "inclusion", **fields), PEM, receipt, older)
    with pytest.raises(ProofInvalid, match="does not go on"):
        verify_proof(_changed(proof, "consistency", path=["00" * 32]), PEM, receipt, older)
    another = json.loads(archive.log.head(4))
    with pytest.raises(ProofInvalid):
        verify_proof(json.dumps({**json.loads(proof), "tree_head": another}), PEM, receipt, older)


def test_a_head_is_believed_by_its_signature_alone(archive: Archive) -> None:
    foreign = TransparencyLog(archive.ledger.receipt_log, OTHER, archive.ledger.now)
    with pytest.raises(ReceiptInvalid):
        verify_head(foreign.head(), PEM)
    forged = {**json.loads(archive.proof(0)), "tree_head": json.loads(foreign.head())}
    with pytest.raises(ReceiptInvalid):
        verify_proof(json.dumps(forged), PEM, archive.receipts[0])
    with pytest.raises(ReceiptInvalid):
        verify_proof(archive.proof(0), PEM, OTHER.sign({"request_id": "x"}))


def test_what_there_is_nothing_to_show_of_is_an_error(archive: Archive) -> None:
    with pytest.raises(InvalidInput, match="says nothing alone"):
        verify_proof(archive.proof(0), PEM)
    with pytest.raises(ProofInvalid, match="no inclusion proof"):
        verify_proof(archive.proof(None, since=2), PEM, archive.receipts[0])
    with pytest.raises(InvalidInput, match="--since 3"):
        verify_proof(archive.proof(0), PEM, archive.receipts[0], archive.log.head(3))
    for nonsense in ("[]", "{}", '{"format": "lethe-log-proof-1"}', "no JSON"):
        with pytest.raises((ProofInvalid, ReceiptInvalid)):
            verify_proof(nonsense, PEM, archive.receipts[0])


def test_a_head_states_how_many_and_when(archive: Archive) -> None:
    assert verify_head(archive.log.head(), PEM).size == 5
    assert "2027-01-15T08:00:00.000Z" in str(_payload(archive.log.head()))


def _payload(envelope: str) -> Any:
    return json.loads(b64decode(json.loads(envelope)["payload"]))

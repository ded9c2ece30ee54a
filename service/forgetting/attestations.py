"""Receipts as in-toto attestations, which the tools of software supply chains read: a Statement v1 in a DSSE envelope.

The statement says nothing that the receipt does not: its predicate is the receipt's content, its subjects are the signed
receipt itself and the files whose digests it states.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters_store import canonical_json
from service.errors import ReceiptInvalid
from service.forgetting import receipts
from service.forgetting.envelopes import is_envelope, read_json, seal, unseal
from service.forgetting.receipts import ReceiptSigner

PAYLOAD_TYPE = "application/vnd.in-toto+json"  # in-toto attestation framework, spec/v1/envelope.md
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:lethe:predicate:deletion-receipt:v1"
RECEIPT = "receipt.json"  # how the receipt is called among the subjects


def attest(receipt: str, signer: ReceiptSigner) -> str:
    """A signed receipt as an attestation, signed anew by the present key.

    Raises `ReceiptInvalid` if the receipt is not by one of the signer's keys.
    """
    content = receipts.verify(receipt, signer.public_keys_pem())
    return seal(statement_of(receipt, content), PAYLOAD_TYPE, signer)


def statement_of(receipt: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The in-toto Statement v1 (spec/v1/statement.md) of a signed receipt with this content."""
    own = _subject(RECEIPT, hashlib.sha256(receipt.encode()).hexdigest())
    return {
        "_type": STATEMENT_TYPE,
        "subject": [own, *_files(content)],
        "predicateType": PREDICATE_TYPE,
        "predicate": dict(content),
    }


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """What a receipt states, and the SHA-256 of its bytes as they were signed, by which the log knows it."""

    content: dict[str, Any]
    digest: bytes


def verify(document: str, public_keys_pem: str) -> VerifiedReceipt:
    """A signed receipt, or one in an attestation, if one of these keys has signed the document.

    Raises `ReceiptInvalid`, and `InvalidInput` if the given keys are none.
    """
    parsed = read_json(document)
    if not is_envelope(parsed):
        # Receipts are signed as canonical JSON; spaces that somebody put in do not matter.
        return VerifiedReceipt(
            receipts.verify(document, public_keys_pem), hashlib.sha256(canonical_json(parsed)).digest()
        )
    statement = unseal(document, PAYLOAD_TYPE, public_keys_pem)
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        raise ReceiptInvalid(f"the envelope holds no in-toto statement ({STATEMENT_TYPE})")
    content = statement.get("predicate")
    if statement.get("predicateType") != PREDICATE_TYPE or not isinstance(content, dict):
        raise ReceiptInvalid(f"the statement is about something else than a deletion ({PREDICATE_TYPE})")
    return VerifiedReceipt(content, _digest_in(statement))


def _digest_in(statement: Mapping[str, Any]) -> bytes:
    try:
        [own] = [subject for subject in statement["subject"] if subject["name"] == RECEIPT]
        return bytes.fromhex(own["digest"]["sha256"])
    except (KeyError, TypeError, ValueError):
        raise ReceiptInvalid("the statement does not name the digest of its receipt") from None


def _files(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    stated = content.get("files") or {}  # the first receipts had none
    return [
        _subject(f"{kind}/{artifact}/{name}", sha256)
        for kind, artifacts in sorted(stated.items())
        for artifact, files in sorted(artifacts.items())
        for name, sha256 in sorted(files.items())
    ]


def _subject(name: str, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}

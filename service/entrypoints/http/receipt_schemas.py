"""Attestations, tree heads and proofs of the receipts' log on the wire."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.entrypoints.http.schemas import answer_config
from service.forgetting.transparency import ReceiptProof

_ENVELOPE: dict[str, Any] = {
    "payload": "eyJfdHlwZSI6…",
    "payloadType": "application/vnd.in-toto+json",
    "signatures": [{"keyid": "9e3c71a5b2d04f68", "sig": "axkh…"}],
}
_HASH = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


class EnvelopeSignature(BaseModel):
    """One signature of an envelope, base64, and the id of the key that made it."""

    model_config = answer_config({"keyid": "9e3c71a5b2d04f68", "sig": "axkh…"})

    keyid: str
    sig: str


class Envelope(BaseModel):
    """A DSSE envelope: `payload` is JSON in base64, `payloadType` says what it is; both are under the signature."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [_ENVELOPE]})

    payload: str
    payload_type: str = Field(alias="payloadType")
    signatures: list[EnvelopeSignature]

    @classmethod
    def of(cls, document: str) -> Envelope:
        """The envelope as it was sealed."""
        return cls.model_validate(json.loads(document))


class InclusionProof(BaseModel):
    """RFC 9162, 2.1.3: that entry number `leaf_index` is SHA-256(salt, SHA-256(receipt)). All in hex digits."""

    model_config = answer_config({"leaf_index": 1, "salt": _HASH, "path": [_HASH]})

    leaf_index: int
    salt: str
    path: list[str]


class ConsistencyProof(BaseModel):
    """RFC 9162, 2.1.4: that the log goes on from its first `first_size` entries. The path in hex digits."""

    model_config = answer_config({"first_size": 1, "path": [_HASH]})

    first_size: int
    path: list[str]


class LogProof(BaseModel):
    """Proofs under one signed tree head: `lethe receipts log verify` checks them, on any machine."""

    model_config = answer_config(
        {
            "format": "lethe-log-proof-1",
            "tree_head": _ENVELOPE | {"payloadType": "application/vnd.lethe.tree-head+json"},
            "inclusion": {"leaf_index": 1, "salt": _HASH, "path": [_HASH]},
            "consistency": None,
        }
    )

    format: str
    tree_head: Envelope
    inclusion: InclusionProof | None
    consistency: ConsistencyProof | None

    @classmethod
    def of(cls, proof: ReceiptProof) -> LogProof:
        """The proof that tells this."""
        return cls.model_validate(proof.stated())

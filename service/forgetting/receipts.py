"""Signed evidence of a completed deletion (Ed25519), and its verification.

A receipt holds digests, counts and times, but no user id, title or history.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from adapters_store import canonical_json, write_once
from service.errors import InvalidSetting, ReceiptInvalid
from service.forgetting.envelopes import read_json
from service.forgetting.erasure import ErasureAudit
from service.forgetting.receipt_keys import RetiredKeys, key_id, new_private_key, pem_of, public_keys_in
from service.records import ForgetRequest, Published

FORMAT = "lethe-receipt-1"
ALGORITHM = "Ed25519"
CLAIMS = {
    "strict": "strict: the whole generation is byte for byte that of a clean build without the subject",
    "recorded": (
        "relative to the recorded partition: every adapter is byte for byte that of a clean build "
        "given the recorded partition"
    ),
    "nothing held": "nothing was held of the subject, so nothing had to be erased or trained again",
}

_KEYS = {"receipt", "signature", "public_key", "algorithm"}  # and "key_id", which the first receipts did not have
_OTHERS = 0o077  # permissions of group and others


class ReceiptSigner:
    """Holds the private key and signs receipts with it; `retired` are the public keys of those before it."""

    def __init__(self, private_key: Ed25519PrivateKey, retired: Mapping[str, Ed25519PublicKey] | None = None) -> None:
        self._private_key = private_key
        self.retired = dict(retired or {})

    @classmethod
    def open(cls, path: Path) -> Self:
        """Load the key file at `path`, making a new key first if there is none (PEM, PKCS #8, mode 0600).

        Of several processes that open the same path at once, all get the same key. Raises `InvalidSetting` if the file
        is readable by others than its owner, is no Ed25519 key, or cannot be read or written.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_once(path, new_private_key)
            private_key = _parse_private_key(_read_private(path), path)
        except OSError as error:
            raise InvalidSetting(
                f"the receipt key {path} cannot be used: {error.strerror}; give it to the user that runs this process"
            ) from error
        retired = RetiredKeys(path).all()
        retired.pop(key_id(private_key.public_key()), None)  # of a rotation that was cut off
        return cls(private_key, retired)

    @classmethod
    def rotate(cls, path: Path) -> Self:
        """Put a new key in the place of the one at `path`, and keep the old one's public key. Raises `InvalidSetting`."""
        old = cls.open(path)
        RetiredKeys(path).replace(old._private_key.public_key())
        return cls.open(path)

    def key_id(self) -> str:
        """The name of the key, which its receipts state."""
        return key_id(self._private_key.public_key())

    def public_key_pem(self) -> str:
        """Return the public key as PEM, to be handed to whoever verifies receipts."""
        return pem_of(self._private_key.public_key())

    def public_keys_pem(self) -> str:
        """Return the public keys of all receipts there are, as PEM one after the other: the present one first."""
        return self.public_key_pem() + "".join(map(pem_of, self.retired.values()))

    def sign_bytes(self, message: bytes) -> bytes:
        """The signature of what says itself what it is, as an envelope does. No JSON: receipts alone are signed as such."""
        return self._private_key.sign(message)

    def sign(self, content: Mapping[str, Any]) -> str:
        """Return the signed document, canonical JSON: the receipt, its signature, public key, key id and algorithm.

        The signature is over `canonical_json(content)`. Raises `ValueError` or `TypeError` for what JSON cannot hold.
        """
        document = {
            "receipt": dict(content),
            "signature": _encode(self._private_key.sign(canonical_json(dict(content)))),
            "public_key": _encode(self._private_key.public_key().public_bytes_raw()),
            "key_id": self.key_id(),
            "algorithm": ALGORITHM,
        }
        return canonical_json(document).decode()


def verify(document: str, public_key_pem: str | None) -> dict[str, Any]:
    """Return the content of a signed document whose signature holds.

    With `public_key_pem` the document must be signed by that key, or one of them. Without it the document's own key is
    used, which shows that nothing was changed, but not who signed.

    Raises `ReceiptInvalid`, and `InvalidInput` if the given key is none.
    """
    parsed = _parse(document)
    trusted = None if public_key_pem is None else public_keys_in(public_key_pem)
    try:
        key = Ed25519PublicKey.from_public_bytes(_decode(parsed["public_key"], "public key"))
    except ValueError:
        raise ReceiptInvalid("the receipt's public key is none") from None
    if trusted is not None and key not in trusted.values():
        raise ReceiptInvalid(
            f"the receipt is signed by another key (key id {key_id(key)}) than the one given (key id {', '.join(trusted)})"
        )
    try:
        key.verify(_decode(parsed["signature"], "signature"), canonical_json(parsed["receipt"]))
    except (InvalidSignature, ValueError):
        raise ReceiptInvalid("the signature does not match the receipt: it was changed after it was signed") from None
    if parsed.get("key_id", key_id(key)) != key_id(key):
        raise ReceiptInvalid("the receipt's key id is not that of its public key")
    content: dict[str, Any] = parsed["receipt"]
    return content


def receipt_content(
    request: ForgetRequest,
    *,
    published: Published | None,
    adapters: Mapping[str, str | None],
    memories: Collection[str],
    completed_at: float,
    audit: ErasureAudit | None,
    files: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a receipt states about a completed deletion, as JSON values.

    `published` is what was served when it was completed. `adapters` maps each affected adapter's digest to that of the one
    that replaced it, or to None if its shard is gone; `memories` are the digests of those that were masked. `completed_at`
    is in seconds since the epoch; times are stated as ISO 8601 in UTC. `audit` is None where nothing was held, so nothing
    had to be searched for. `files` states the SHA-256 of each file of the adapters and memories that stand in their places.
    """
    return {
        "format": FORMAT,
        "request_id": request.request_id,
        "subject": request.subject,
        "requested_by": request.requested_by,
        "scope": request.scope,
        "held": request.held,
        "outcome": request.found.value,
        "items": request.items and asdict(request.items),
        "accepted_at": _iso(request.accepted_at),
        "masked_at": _iso(request.masked_at),
        "retraining_at": None if request.retraining_at is None else _iso(request.retraining_at),
        "completed_at": _iso(completed_at),
        "fence": request.fence,
        "exactness": CLAIMS[_claim(request, published)],
        "unit": published and published.config.unit,
        "counts": {
            "interactions": request.erased_interactions,
            "impressions": request.erased_impressions,
            "training_samples": request.masked_samples,
            "validation_rows": request.masked_rows,
            "shards": len(request.affected_shards),
            "memories": len(memories),
        },
        "generation": {"before": request.generation_before, "after": published and published.generation},
        "adapters": dict(adapters),
        "memories": sorted(memories),
        "files": files or {"adapters": {}, "memories": {}},
        "frozen_model": published and asdict(published.frozen),
        "configuration": published and published.config.stated(),
        "environment": published and dict(published.environment),
        "erasure": audit and audit.stated(),
    }


def _claim(request: ForgetRequest, published: Published | None) -> str:
    # One that names nothing held, while an earlier one is owed, masks and rebuilds all the same.
    rebuilt = request.held or request.erased_interactions or request.masked_rows or request.affected_shards
    if published is None or not rebuilt:
        return "nothing held"
    return "recorded" if published.config.partition == "algorithm1" else "strict"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_private(path: Path) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS:
            raise InvalidSetting(f"the receipt key {path} is open to other users; run chmod 600 on it")
        return file.read()


def _parse_private_key(pem: bytes, path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidSetting(f"the receipt key {path} is no unencrypted Ed25519 key in PEM; restore it from a backup")
    return key


def _parse(document: str) -> dict[str, Any]:
    parsed = read_json(document)
    if not isinstance(parsed, dict) or parsed.keys() - {"key_id"} != _KEYS or not isinstance(parsed["receipt"], dict):
        raise ReceiptInvalid(f"the receipt is not of the expected form: an object with {', '.join(sorted(_KEYS))}")
    if parsed["algorithm"] != ALGORITHM:
        raise ReceiptInvalid(f"the receipt is not signed with {ALGORITHM}")
    return parsed


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decode(text: object, what: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    # Base64 has spare bits: without this, changed characters could stand for the same bytes.
    if not raw or _encode(raw) != text:
        raise ReceiptInvalid(f"the receipt's {what} is not sound base64")
    return raw

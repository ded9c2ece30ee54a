"""Signed envelopes of JSON (DSSE 1.0.2): the signature covers the payload's bytes together with what they are.

Statements of different kinds are signed with one key. As the kind is under the signature, none can be passed off as another,
nor as a receipt, whose signature is over JSON that begins with a brace.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any, Protocol

from adapters_store import canonical_json
from service.errors import ReceiptInvalid
from service.forgetting.receipt_keys import public_keys_in, signing_key


class Signs(Protocol):
    """Holds a private key."""

    def key_id(self) -> str: ...

    def sign_bytes(self, message: bytes) -> bytes: ...


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What is signed of an envelope: the PAE of the DSSE protocol, version 1."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(payload: Any, payload_type: str, signer: Signs) -> str:
    """The envelope of a JSON value, as canonical JSON on one line. Raises `ValueError` for what JSON cannot hold."""
    content = canonical_json(payload)
    signature = signer.sign_bytes(pre_authentication(payload_type, content))
    envelope = {
        "payload": _encode(content),
        "payloadType": payload_type,
        "signatures": [{"keyid": signer.key_id(), "sig": _encode(signature)}],
    }
    return canonical_json(envelope).decode()


def unseal(document: str, payload_type: str, public_keys_pem: str) -> Any:
    """The JSON value of an envelope of this type that one of these keys has signed.

    Raises `ReceiptInvalid`, and `InvalidInput` if the given keys are none.
    """
    trusted = public_keys_in(public_keys_pem)
    envelope = read_json(document)
    if not is_envelope(envelope):
        raise ReceiptInvalid("this is no DSSE envelope: an object with payload, payloadType and signatures")
    if envelope["payloadType"] != payload_type:
        raise ReceiptInvalid(f"the envelope's payload is of another type than {payload_type}")
    payload = _decode(envelope["payload"])
    signed = pre_authentication(payload_type, payload)
    if not any(signing_key(trusted, signed, signature) for signature in _signatures(envelope["signatures"])):
        raise ReceiptInvalid(
            "none of the envelope's signatures is of its content by a key that was given "
            f"(key id {', '.join(trusted)}): it was changed after it was signed, or somebody else signed it"
        )
    try:
        return read_json(payload.decode())
    except UnicodeDecodeError:
        raise ReceiptInvalid("the envelope's payload is no text") from None


def is_envelope(value: Any) -> bool:
    """Whether a JSON value has the fields of an envelope; others may stand beside them."""
    return isinstance(value, dict) and {"payload", "payloadType", "signatures"} <= value.keys()


def read_json(text: str) -> Any:
    """A JSON value in which no object names a key twice. Raises `ReceiptInvalid`."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ReceiptInvalid("the document is not sound JSON") from None


def _signatures(given: Any) -> Iterator[bytes]:
    # What names a key (`keyid`) is not under the signature, so nothing is decided by it.
    for one in given if isinstance(given, list) else ():
        if isinstance(one, dict):
            yield _decode(one.get("sig"))


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decode(text: object) -> bytes:
    # Consumers take either alphabet (DSSE, envelope.md).
    try:
        return base64.b64decode(str(text).translate(_STANDARD), validate=True)
    except (binascii.Error, ValueError):
        raise ReceiptInvalid("the envelope's base64 is not sound") from None


_STANDARD = str.maketrans("-_", "+/")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # With a repeated key two readers could see two different statements under one signature.
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key is repeated")
    return unique


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")

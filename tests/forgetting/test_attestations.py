"""A receipt as an in-toto attestation says what the receipt says, under a signature that nothing else can stand in for."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.errors import ReceiptInvalid
from service.forgetting import receipts
from service.forgetting.attestations import PAYLOAD_TYPE, PREDICATE_TYPE, attest, verify
from service.forgetting.envelopes import pre_authentication, seal, unseal
from service.forgetting.receipts import ReceiptSigner

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER = ReceiptSigner(KEY)
OTHER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(32)))
PEM = SIGNER.public_key_pem()
FILES = {"adapters": {"a1": {"adapter_model.safetensors": "3" * 64}}, "memories": {"m1": {"pairs.npy": "4" * 64}}}
CONTENT: dict[str, Any] = {"format": "lethe-receipt-1", "request_id": "b7c1", "fence": 7, "files": FILES}
RECEIPT = SIGNER.sign(CONTENT)
ATTESTATION = attest(RECEIPT, SIGNER)
ENVELOPE: dict[str, Any] = json.loads(ATTESTATION)


def statement(attestation: str = ATTESTATION) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(json.loads(attestation)["payload"])))


def test_what_is_signed_is_what_the_protocol_says() -> None:
    """The example of DSSE's protocol.md."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pre_authentication("http://example.com/HelloWorld", b"hello world") == expected


def test_the_statement_is_the_receipt_in_in_totos_words() -> None:
    assert statement() == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "receipt.json", "digest": {"sha256": hashlib.sha256(RECEIPT.encode()).hexdigest()}},
            {"name": "adapters/a1/adapter_model.safetensors", "digest": {"sha256": "3" * 64}},
            {"name": "memories/m1/pairs.npy", "digest": {"sha256": "4" * 64}},
        ],
        "predicateType": "urn:lethe:predicate:deletion-receipt:v1",
        "predicate": CONTENT,
    }
    assert ENVELOPE["payloadType"] == "application/vnd.in-toto+json"


@pytest.mark.parametrize("stated", [{}, {"files": {"adapters": {}, "memories": {}}}])
def test_where_nothing_was_trained_again_the_receipt_itself_is_the_subject(stated: dict[str, Any]) -> None:
    names = [subject["name"] for subject in statement(attest(SIGNER.sign(stated), SIGNER))["subject"]]
    assert names == ["receipt.json"]


def test_other_tools_can_verify_it() -> None:
    [signature] = ENVELOPE["signatures"]
    payload = base64.b64decode(ENVELOPE["payload"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    KEY.public_key().verify(base64.b64decode(signature["sig"]), signed)
    assert signature["keyid"] == SIGNER.key_id()


def test_a_receipt_and_its_attestation_verify_to_one_content_and_one_digest() -> None:
    assert verify(RECEIPT, PEM) == verify(ATTESTATION, PEM)
    assert verify(RECEIPT, PEM).content == CONTENT
    assert verify(json.dumps(json.loads(RECEIPT), indent=2), PEM) == verify(RECEIPT, PEM)


def test_the_receipt_is_not_changed_by_it() -> None:
    assert SIGNER.sign(receipts.verify(RECEIPT, PEM)) == RECEIPT


def test_every_character_of_the_payload_counts() -> None:
    payload = ENVELOPE["payload"]
    for at in range(len(payload.rstrip("=")) - 1):
        changed = payload[:at] + ("B" if payload[at] == "A" else "A") + payload[at + 1 :]
        with pytest.raises(ReceiptInvalid):
            verify(json.dumps({**ENVELOPE, "payload": changed}), PEM)


def test_fields_that_others_add_and_the_other_base64_are_taken() -> None:
    """DSSE, envelope.md: consumers ignore what they do not know, and take both alphabets."""
    urlsafe = {name: ENVELOPE[name].translate(str.maketrans("+/", "-_")) for name in ("payload",)}
    signatures = [{"sig": base64.urlsafe_b64encode(bytes(64)).decode()}, *ENVELOPE["signatures"]]
    assert verify(json.dumps({**ENVELOPE, **urlsafe, "signatures": signatures, "more": 1}), PEM).content == CONTENT


@pytest.mark.parametrize(
    "changed",
    [
        {"signatures": []},
        {"signatures": [{"keyid": SIGNER.key_id()}]},
        {"signatures": [{"keyid": SIGNER.key_id(), "sig": "é"}]},
        {"signatures": "none"},
        {"payloadType": "application/json"},
        {"payload": None},
        {"payload": base64.b64encode(b"{}").decode()},
    ],
)
def test_what_nobody_signed_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ReceiptInvalid):
        verify(json.dumps({**ENVELOPE, **changed}), PEM)


def test_another_keys_attestation_is_refused_whatever_key_it_names() -> None:
    forged = json.loads(attest(OTHER.sign(CONTENT), OTHER))
    forged["signatures"][0]["keyid"] = SIGNER.key_id()
    with pytest.raises(ReceiptInvalid, match="none of the envelope's signatures"):
        verify(json.dumps(forged), PEM)


def test_only_a_receipt_that_this_installation_signed_is_attested() -> None:
    with pytest.raises(ReceiptInvalid, match="another key"):
        attest(OTHER.sign(CONTENT), SIGNER)
    forged = RECEIPT.replace('"fence":7', '"fence":8')
    with pytest.raises(ReceiptInvalid, match="does not match"):
        attest(forged, SIGNER)


def test_a_receipt_of_a_retired_key_is_attested_by_the_present_one() -> None:
    present = ReceiptSigner(OTHER._private_key, {SIGNER.key_id(): KEY.public_key()})
    assert verify(attest(RECEIPT, present), OTHER.public_key_pem()).content == CONTENT


@pytest.mark.parametrize(
    "said",
    [
        [],
        {"_type": "https://in-toto.io/Statement/v0.1", "predicateType": PREDICATE_TYPE, "predicate": CONTENT},
        {**statement(), "predicateType": "https://slsa.dev/provenance/v1"},
        {**statement(), "predicate": "text"},
        {**statement(), "subject": []},
        {**statement(), "subject": [{"name": "receipt.json"}]},
    ],
)
def test_a_signed_statement_about_something_else_is_no_receipt(said: Any) -> None:
    with pytest.raises(ReceiptInvalid):
        verify(seal(said, PAYLOAD_TYPE, SIGNER), PEM)


def test_no_kind_of_statement_can_be_passed_off_as_another() -> None:
    """One key signs all of them, so each signature is over what the statement is."""
    with pytest.raises(ReceiptInvalid, match="another type"):
        unseal(ATTESTATION, "application/vnd.lethe.tree-head+json", PEM)
    head = seal(statement(), "application/vnd.lethe.tree-head+json", SIGNER)
    with pytest.raises(ReceiptInvalid):
        verify(json.dumps({**json.loads(head), "payloadType": PAYLOAD_TYPE}), PEM)
    document = {**json.loads(RECEIPT), "receipt": statement(), "signature": ENVELOPE["signatures"][0]["sig"]}
    with pytest.raises(ReceiptInvalid, match="does not match"):
        receipts.verify(json.dumps(document), PEM)

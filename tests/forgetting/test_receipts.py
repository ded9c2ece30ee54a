"""A receipt says what was done, and any change to it is noticed."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from adapters_store import canonical_json
from service.errors import InvalidInput, InvalidSetting, ReceiptInvalid
from service.forgetting.erasure import ErasureAudit
from service.forgetting.receipts import ReceiptSigner, receipt_content, verify
from service.records import BuildConfig, ForgetRequest, Published
from tests.manifests import MODEL

REPOSITORY = Path(__file__).resolve().parents[2]
REQUEST = ForgetRequest(
    request_id="b7c1",
    subject="5f" * 32,
    scope="user",
    state="retraining",
    fence=7,
    affected_shards=("a" * 64, "b" * 64),
    erased_interactions=120,
    masked_rows=3,
    masked_samples=21,
    accepted_at=1_750_000_000.25,
    masked_at=1_750_000_000.375,
    retraining_at=1_750_000_001.0,
    generation_before="1" * 64,
)
SIGNER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


PUBLISHED = Published(
    generation="2" * 64,
    fence=9,
    config=BuildConfig(lora_targets=("c_attn",)),
    frozen=MODEL,
    environment={"torch": "2.9.0", "platform": "Linux-x86_64"},
)
FILES = {"adapters": {"c" * 64: {"adapter_model.safetensors": "3" * 64}}, "memories": {}}
NOTHING_LEFT = ErasureAudit(
    person_in_ledger=0,
    old_adapters=0,
    old_memories=0,
    old_generations=0,
    masked_rows_in_use=0,
    abandoned_files=0,
    files_naming_old_artifacts=0,
    names_searched=4,
    people_searched=7,
    files_searched=12,
    bytes_searched=3456,
)


def content_of(
    request: ForgetRequest, published: Published | None = PUBLISHED, memories: Sequence[str] = ("e" * 64, "d" * 64)
) -> dict[str, Any]:
    return receipt_content(
        request,
        published=published,
        adapters={"a" * 64: "c" * 64, "b" * 64: None},
        memories=memories,
        completed_at=1_750_000_100.0,
        audit=NOTHING_LEFT,
        files=FILES,
    )


CONTENT = content_of(REQUEST)
DOCUMENT = SIGNER.sign(CONTENT)
RECEIPT_AT = DOCUMENT.index('"receipt":') + len('"receipt":')
RECEIPT_END = RECEIPT_AT + len(canonical_json(CONTENT).decode()) - 1


# What it states


def test_a_receipt_states_the_whole_deletion() -> None:
    assert content_of(REQUEST) == {
        "format": "lethe-receipt-1",
        "request_id": "b7c1",
        "requested_by": None,
        "subject": "5f" * 32,
        "scope": "user",
        "held": True,
        "outcome": "erased",
        "items": None,
        "accepted_at": "2025-06-15T15:06:40.250Z",
        "masked_at": "2025-06-15T15:06:40.375Z",
        "retraining_at": "2025-06-15T15:06:41.000Z",
        "completed_at": "2025-06-15T15:08:20.000Z",
        "fence": 7,
        "exactness": "strict: the whole generation is byte for byte that of a clean build without the subject",
        "unit": "user",
        "counts": {
            "interactions": 120,
            "impressions": 0,
            "training_samples": 21,
            "validation_rows": 3,
            "shards": 2,
            "memories": 2,
        },
        "generation": {"before": "1" * 64, "after": "2" * 64},
        "adapters": {"a" * 64: "c" * 64, "b" * 64: None},
        "memories": ["d" * 64, "e" * 64],
        "files": FILES,
        "frozen_model": {"digest": "f" * 64, "dtype": "float32"},
        "configuration": {**BuildConfig().stated(), "lora_targets": ["c_attn"]},
        "environment": {"torch": "2.9.0", "platform": "Linux-x86_64"},
        "erasure": {
            "found": 0,
            "person_in_ledger": 0,
            "old_adapters": 0,
            "old_memories": 0,
            "old_generations": 0,
            "masked_rows_in_use": 0,
            "abandoned_files": 0,
            "files_naming_old_artifacts": 0,
            "names_searched": 4,
            "people_searched": 7,
            "files_searched": 12,
            "bytes_searched": 3456,
            "unnamed_items": 0,
        },
    }


def test_a_receipt_says_when_nothing_was_held() -> None:
    nothing = replace(
        REQUEST, affected_shards=(), erased_interactions=0, masked_rows=0, masked_samples=0, retraining_at=None
    )
    content = content_of(nothing, memories=())
    assert content["held"] is False
    assert content["retraining_at"] is None
    assert set(content["counts"].values()) == {0}
    assert content["exactness"].startswith("nothing was held")
    assert content_of(nothing, None)["generation"]["after"] is None


def test_a_recorded_partition_is_claimed_as_such() -> None:
    recorded = replace(PUBLISHED, config=BuildConfig(partition="algorithm1"))
    claim = content_of(REQUEST, recorded)["exactness"]
    assert claim.startswith("relative to the recorded partition: every adapter")


# Signing and verifying


def test_a_signed_receipt_comes_back() -> None:
    assert verify(DOCUMENT, None) == CONTENT
    assert verify(DOCUMENT, SIGNER.public_key_pem()) == CONTENT
    assert json.loads(DOCUMENT)["algorithm"] == "Ed25519"


def test_signing_is_deterministic() -> None:
    assert SIGNER.sign(dict(reversed(CONTENT.items()))) == DOCUMENT


def test_layout_and_order_of_the_document_do_not_matter() -> None:
    document = json.loads(DOCUMENT)
    assert verify(json.dumps(dict(reversed(document.items())), indent=2), None) == CONTENT


def test_other_tools_can_verify_it() -> None:
    document = json.loads(DOCUMENT)
    key = SIGNER._private_key.public_key()
    assert base64.b64decode(document["public_key"]) == key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    key.verify(base64.b64decode(document["signature"]), canonical_json(document["receipt"]))


@given(st.integers(RECEIPT_AT, RECEIPT_END - 1), st.characters())
def test_every_changed_character_of_the_content_is_refused(position: int, character: str) -> None:
    changed = DOCUMENT[:position] + character + DOCUMENT[position + 1 :]
    if changed == DOCUMENT:
        assert verify(changed, None) == CONTENT
        return
    with pytest.raises(ReceiptInvalid):
        verify(changed, None)


def test_every_character_of_the_document_counts() -> None:
    for position, character in enumerate(DOCUMENT[:-1]):
        other = "B" if character == "A" else "A"
        with pytest.raises(ReceiptInvalid):
            verify(DOCUMENT[:position] + other + DOCUMENT[position + 1 :], None)


def test_every_removed_character_of_the_document_is_refused() -> None:
    for position in range(len(DOCUMENT) - 1):
        with pytest.raises(ReceiptInvalid):
            verify(DOCUMENT[:position] + DOCUMENT[position + 1 :], None)


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())))
def test_any_content_survives_the_round_trip(content: dict[str, Any]) -> None:
    assert verify(SIGNER.sign(content), SIGNER.public_key_pem()) == content


def test_another_keys_receipt_is_refused() -> None:
    other = ReceiptSigner(Ed25519PrivateKey.generate())
    with pytest.raises(ReceiptInvalid, match="another key"):
        verify(other.sign(CONTENT), SIGNER.public_key_pem())


def test_a_swapped_key_does_not_make_a_signature_true() -> None:
    document = json.loads(DOCUMENT)
    other = json.loads(ReceiptSigner(Ed25519PrivateKey.generate()).sign(CONTENT))
    with pytest.raises(ReceiptInvalid, match="does not match"):
        verify(json.dumps({**document, "public_key": other["public_key"]}), None)


DOCUMENT_OBJECT: dict[str, Any] = json.loads(DOCUMENT)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "not JSON",
        "[" * 100_000,
        "[]",
        "{}",
        json.dumps(CONTENT),
        json.dumps({**DOCUMENT_OBJECT, "receipt": "text"}),
        json.dumps({**DOCUMENT_OBJECT, "algorithm": "none"}),
        json.dumps({**DOCUMENT_OBJECT, "signature": None}),
        json.dumps({**DOCUMENT_OBJECT, "signature": "é"}),
        json.dumps({**DOCUMENT_OBJECT, "public_key": "AAAA"}),
        json.dumps({**DOCUMENT_OBJECT, "more": 1}),
        json.dumps({**DOCUMENT_OBJECT, "receipt": {"a": "\ud800"}}),
        json.dumps({**DOCUMENT_OBJECT, "receipt": {"a": float("nan")}}),
        DOCUMENT.replace('"fence":7', '"fence":8,"fence":7'),
    ],
)
def test_what_is_no_receipt_is_refused(document: str) -> None:
    with pytest.raises(ReceiptInvalid):
        verify(document, None)


@pytest.mark.parametrize("pem", ["", "no key"])
def test_a_public_key_that_is_none_is_the_callers_mistake(pem: str) -> None:
    with pytest.raises(InvalidInput, match="public key"):
        verify(DOCUMENT, pem)


# The key file


def test_a_key_is_made_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "receipts.pem"
    first, second = ReceiptSigner.open(path), ReceiptSigner.open(path)
    assert first.public_key_pem() == second.public_key_pem()
    assert first.public_key_pem().startswith("-----BEGIN PUBLIC KEY-----")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["receipts.pem"]


def test_a_key_made_under_any_umask_is_its_owners_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ReceiptSigner.open(tmp_path / "key.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    ReceiptSigner.open(path)
    path.chmod(mode)
    with pytest.raises(InvalidSetting, match="chmod 600"):
        ReceiptSigner.open(path)


def pem_of_another_kind() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"no key", pem_of_another_kind()])
def test_a_file_that_holds_no_ed25519_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidSetting, match="Ed25519"):
        ReceiptSigner.open(path)
    assert path.read_bytes() == content


def test_a_key_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSetting, match="give it to the user"):
        ReceiptSigner.open(tmp_path / "file" / "key.pem")


OPENS = """
import sys
from pathlib import Path
from service.forgetting.receipts import ReceiptSigner
print("ready", flush=True)
sys.stdin.readline()
print(ReceiptSigner.open(Path(sys.argv[1])).public_key_pem())
"""


def test_processes_that_race_get_one_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    openers = [open_elsewhere(path) for _ in range(4)]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    keys = {opener.communicate(timeout=60)[0].strip() for opener in openers}
    assert keys == {ReceiptSigner.open(path).public_key_pem().strip()}
    assert os.listdir(tmp_path) == ["key.pem"]


def open_elsewhere(path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", OPENS, str(path)]
    return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


# Rotation


def test_after_a_rotation_old_and_new_receipts_verify_with_the_published_keys(tmp_path: Path) -> None:
    path = tmp_path / "receipts.pem"
    first = ReceiptSigner.open(path)
    old = first.sign(CONTENT)
    second = ReceiptSigner.rotate(path)
    third = ReceiptSigner.rotate(path)
    assert list(third.retired) == [first.key_id(), second.key_id()]
    assert len({first.key_id(), second.key_id(), third.key_id()}) == 3
    published = ReceiptSigner.open(path).public_keys_pem()
    assert published.startswith(third.public_key_pem())
    for receipt, signer in ((old, first), (second.sign(CONTENT), second), (third.sign(CONTENT), third)):
        assert json.loads(receipt)["key_id"] == signer.key_id()
        assert verify(receipt, published) == verify(receipt, signer.public_key_pem()) == CONTENT
    with pytest.raises(ReceiptInvalid, match=f"another key .*{first.key_id()}.*{third.key_id()}"):
        verify(old, third.public_key_pem())
    with pytest.raises(ReceiptInvalid, match="another key"):
        verify(SIGNER.sign(CONTENT), published)
    assert [stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()] == [0o600, 0o600]


def test_a_receipt_from_before_key_ids_still_verifies_and_a_wrong_key_id_does_not() -> None:
    document = json.loads(DOCUMENT)
    without = {name: value for name, value in document.items() if name != "key_id"}
    assert verify(json.dumps(without), SIGNER.public_key_pem()) == CONTENT
    with pytest.raises(ReceiptInvalid, match="key id"):
        verify(json.dumps({**document, "key_id": "0" * 16}), SIGNER.public_key_pem())


def test_a_rotation_that_was_cut_off_leaves_the_key_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "receipts.pem"
    first = ReceiptSigner.open(path)
    (tmp_path / "receipts.retired.pem").write_text(first.public_key_pem())  # kept, but not yet replaced
    again = ReceiptSigner.open(path)
    assert (again.key_id(), again.retired) == (first.key_id(), {})
    assert list(ReceiptSigner.rotate(path).retired) == [first.key_id()]


def test_retired_keys_that_are_none_are_refused(tmp_path: Path) -> None:
    ReceiptSigner.open(tmp_path / "receipts.pem")
    (tmp_path / "receipts.retired.pem").write_text("no keys")
    with pytest.raises(InvalidSetting, match="restore it from a backup"):
        ReceiptSigner.open(tmp_path / "receipts.pem")

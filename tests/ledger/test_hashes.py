"""Keyed hashes are on disks everywhere: their bytes never change."""

from __future__ import annotations

import hmac
import json
import unicodedata

import pytest

from service.ledger import KeyedHashes


@pytest.mark.parametrize(
    "parts", [(), ("plain",), ("", 'q"uote', "back\\slash"), ("é\u2028\ud800", "\x00\n", "🎬")], ids=ascii
)
def test_a_hash_is_that_of_the_json_list_of_its_parts(parts: tuple[str, ...]) -> None:
    message = json.dumps(["purpose", *parts]).encode()
    assert KeyedHashes(b"key").of("purpose", *parts) == hmac.digest(b"key", message, "sha256").hex()


@pytest.mark.parametrize("user_id", ["plain", 'q"uote', "back\\slash", "é\u2028x", "🎬"], ids=ascii)
def test_a_persons_hash_is_that_of_their_id_for_one_purpose(user_id: str) -> None:
    hashes = KeyedHashes(b"key", [b"earlier"])
    every = (hashes, *hashes.retired)
    spellings = dict.fromkeys((user_id, unicodedata.normalize("NFD", user_id)))
    assert hashes.subject(user_id) == hashes.of("subject", user_id)
    assert hashes.subjects(user_id) == tuple(each.of("subject", text) for each in every for text in spellings)

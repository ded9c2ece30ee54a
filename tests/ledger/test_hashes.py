"""Keyed hashes are on disks everywhere: their bytes never change."""

from __future__ import annotations

import hmac
import json

import pytest

from service.ledger import KeyedHashes


@pytest.mark.parametrize(
    "parts", [(), ("plain",), ("", 'q"uote', "back\\slash"), ("é\u2028\ud800", "\x00\n", "🎬")], ids=ascii
)
def test_a_hash_is_that_of_the_json_list_of_its_parts(parts: tuple[str, ...]) -> None:
    message = json.dumps(["purpose", *parts]).encode()
    assert KeyedHashes(b"key").of("purpose", *parts) == hmac.digest(b"key", message, "sha256").hex()

from __future__ import annotations

import unicodedata
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.records import LONGEST_KEY, LONGEST_KEY_AS_GIVEN, KeyRefused, key_of


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("5", "5"),
        ("  pad  ", "pad"),
        ("\u00a0\u2003\u3000\u0085pad\t\r\n\x1f", "pad"),
        ("Jose\u0301", "Jos\u00e9"),
        ("\u212b", "\u00c5"),
        ("\u1112\u1161\u11ab", "\ud55c"),
        (" \u0301", "\u0301"),
        ("007", "007"),
        ("1.0", "1.0"),
        ("tab\tid", "tab\tid"),
        ("john\ndoe", "john\ndoe"),
        ("nel\u0085id", "nel\u0085id"),
        ("zw\u200b", "zw\u200b"),
        ("\u202bשלום", "\u202bשלום"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("x" * LONGEST_KEY, "x" * LONGEST_KEY),
        ("e\u0301" * LONGEST_KEY, "\u00e9" * LONGEST_KEY),
        ("\ufdfa", "\ufdfa"),  # NFC alone: what only looks alike stays apart
        (b"Jose\xcc\x81", "Jos\u00e9"),
        (1, "1"),
        (-1, "-1"),
        (2**63, str(2**63)),
        (1.0, "1"),
        (-0.0, "0"),
        (2.0**53 - 1, str(2**53 - 1)),
        (Decimal("10.00"), "10"),
        (Decimal("1E+3"), "1000"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_a_key_has_one_form(given: object, key: str) -> None:
    assert key_of(given) == key
    assert key_of(key) == key


@pytest.mark.parametrize(
    "given",
    [
        "",
        " \t\u3000",
        "x" * (LONGEST_KEY + 1),
        "\u0958" * LONGEST_KEY,  # NFC is longer than what was given
        " " * LONGEST_KEY_AS_GIVEN + "x",
        "a\0b",
        "a\ud800",
        b"\xff",
        b"",
        b"a\0",
        True,
        None,
        1.5,
        float("nan"),
        float("inf"),
        2.0**53,
        10**LONGEST_KEY,
        Decimal("1.5"),
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal(f"1E+{LONGEST_KEY}"),
        ["a"],
        {"a": 1},
    ],
)
def test_what_is_no_key_is_refused_without_being_quoted(given: object) -> None:
    with pytest.raises(KeyRefused) as refused:
        key_of(given)
    assert str(refused.value).startswith(("is ", "holds "))
    assert "xx" not in str(refused.value)


@given(st.text(max_size=300))
def test_equivalent_texts_are_one_key(text: str) -> None:
    try:
        key = key_of(text)
    except KeyRefused:
        return
    assert key_of(key) == key
    assert unicodedata.is_normalized("NFC", key)
    assert key == key.strip()
    spelled = unicodedata.normalize("NFD", text)
    if len(spelled) <= LONGEST_KEY_AS_GIVEN - 2:
        assert key_of(f" {spelled}\n") == key

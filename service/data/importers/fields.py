"""One field of a row -> the value it stands for. Each raises MalformedRow, which names the field and never its content."""

from __future__ import annotations

import math
from decimal import Decimal

from service.data.importers.rejections import MalformedRow
from service.records import Key, KeyRefused, key_of

LONGEST_ID = 256
LONGEST_TITLE = 500

_TRUTHS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def is_blank(value: object) -> bool:
    """Whether nothing is said: absent, or white space only."""
    return value is None or (isinstance(value, str) and not value.strip())


def as_id(value: object) -> Key:
    """Ids are text, or whole numbers, or UTF-8 in bytes; normalized as everywhere (`key_of`)."""
    try:
        return key_of(value)
    except KeyRefused as error:
        raise MalformedRow(f"id {error}") from None


def as_title(value: object) -> str:
    """The title as it stands: prompts quote it, so no space is cut."""
    return _text(value, "title", LONGEST_TITLE)


def as_author(value: object) -> str | None:
    """None where nobody is named."""
    return None if is_blank(value) else _text(value, "author", LONGEST_TITLE)


def as_genres(value: object, separator: str = "|") -> tuple[str, ...]:
    """From a list, or from text with separators."""
    if is_blank(value):
        return ()
    named = value.split(separator) if isinstance(value, str) else value
    if not isinstance(named, list):
        raise MalformedRow("genres are neither a list nor text")
    return tuple(_text(genre, "genre", LONGEST_ID).strip() for genre in named)


def as_year(value: object) -> int | None:
    """None where it is unknown, which Book-Crossing writes as 0."""
    if is_blank(value):
        return None
    year = _number(value, "year")
    if not -10_000 < year < 10_000:
        raise MalformedRow("year is out of range")
    return int(year) or None


def as_rating(value: object) -> float:
    """Any finite number."""
    return _number(value, "rating")


def as_liked(value: object) -> bool:
    """From 0, 1, true and false; also as numbers, as 1.0 in a column that once had gaps."""
    if isinstance(value, float | Decimal) and value in (0, 1):
        return bool(value)
    known = _TRUTHS.get(str(value).strip().lower())
    if known is None:
        raise MalformedRow("liked is none of 0, 1, true and false")
    return known


def _text(value: object, name: str, longest: int) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="surrogateescape")
    if not isinstance(value, str) or not value.strip():
        raise MalformedRow(f"{name} is empty or no text")
    if len(value) > longest:
        raise MalformedRow(f"{name} is longer than {longest} characters")
    # Most texts are plain, and there may be millions.
    if "\0" in value or not (value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)):
        raise MalformedRow(f"{name} holds characters that are not text in the file's encoding")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise MalformedRow(f"{name} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise MalformedRow(f"{name} is not a number") from error
    if not math.isfinite(number):
        raise MalformedRow(f"{name} is not a finite number")
    return number

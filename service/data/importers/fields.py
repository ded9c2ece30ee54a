"""One field of a row -> the value it stands for. Each raises MalformedRow, which names the field and never its content."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from service.data.importers.rejections import MalformedRow
from service.records import Key, KeyRefused, key_of

LONGEST_ID = 256
LONGEST_TITLE = 500

_TRUTHS = {"1": True, "true": True, "0": False, "false": False}
_INT64_LIMIT = 2**63


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


def as_genres(value: object) -> tuple[str, ...]:
    """From a list, or from text separated by `|`."""
    if is_blank(value):
        return ()
    named = value.split("|") if isinstance(value, str) else value
    if not isinstance(named, list):
        raise MalformedRow("genres are neither a list nor text")
    return tuple(_text(genre, "genre", LONGEST_ID).strip() for genre in named)


def as_year(value: object) -> int | None:
    """None where it is unknown, which Book-Crossing writes as 0."""
    return None if is_blank(value) else int(_bounded(_number(value, "year"), "year", 10_000)) or None


def as_rating(value: object) -> float:
    """Any finite number."""
    return _number(value, "rating")


def as_liked(value: object) -> bool:
    """From 0, 1, true and false."""
    known = _TRUTHS.get(str(value).strip().lower())
    if known is None:
        raise MalformedRow("liked is none of 0, 1, true and false")
    return known


def as_timestamp(value: object) -> int:
    """Seconds since the epoch, from seconds or ISO 8601 (UTC where no zone is given)."""
    if isinstance(value, datetime):
        return _seconds(value)
    if isinstance(value, str) and not _looks_numeric(value):
        return _seconds(_iso_time(value))
    return int(_bounded(_number(value, "timestamp"), "timestamp", _INT64_LIMIT))


def _text(value: object, name: str, longest: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MalformedRow(f"{name} is empty or no text")
    if len(value) > longest:
        raise MalformedRow(f"{name} is longer than {longest} characters")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise MalformedRow(f"{name} holds characters that are not text in the file's encoding")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise MalformedRow(f"{name} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise MalformedRow(f"{name} is not a number") from error
    if not math.isfinite(number):
        raise MalformedRow(f"{name} is not a finite number")
    return number


def _bounded(number: float, name: str, limit: int) -> float:
    if not -limit < number < limit:
        raise MalformedRow(f"{name} is out of range")
    return number


def _looks_numeric(text: str) -> bool:
    return bool(re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text))


def _iso_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise MalformedRow("timestamp is neither seconds nor ISO 8601") from error


def _seconds(moment: datetime) -> int:
    try:
        return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except OverflowError as error:
        raise MalformedRow("timestamp is out of range") from error

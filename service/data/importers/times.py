"""Timestamps in whatever unit a file has them -> whole seconds since the epoch.

Numbers tell their unit by their size: what would be the year 5138 in seconds is taken for milliseconds, and so on. Each file
keeps to one unit, that of most of its first rows; a number of another unit is a malformed row.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal

from service.data.importers.rejections import MalformedRow

_UNITS = (("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9))
_LARGEST_SECONDS = 10**11
_INT64_LIMIT = 2**63
_NUMERIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LOG_TIME = "%a %b %d %H:%M:%S %z %Y"  # "Sun Jul 30 07:44:10 -0700 2017", as Goodreads writes


class Clock:
    """The timestamps of one file. `unit` is the number's place among seconds, milliseconds, micro- and nanoseconds."""

    def __init__(self, unit: int) -> None:
        self._unit = unit

    @classmethod
    def of(cls, first: Iterable[object]) -> Clock:
        """The clock of a file that begins with these values; those that tell nothing, as 0, do not count."""
        units: Counter[int] = Counter()
        for value in first:
            try:
                number = _numeric(value)
            except MalformedRow:
                continue
            if number:
                units[_unit_of(number)] += 1
        return cls(units.most_common(1)[0][0] if units else 0)

    def seconds(self, value: object) -> int:
        """From a number in the file's unit, a date or time, or ISO 8601 (UTC where no zone is given). Raises MalformedRow."""
        number = _numeric(value)
        if number is None:
            return _seconds(_moment(value))
        unit = _unit_of(number)
        if number and unit != self._unit:
            found, expected = _UNITS[unit][0], _UNITS[self._unit][0]
            raise MalformedRow(f"timestamp is in {found} where the file's others are in {expected}: it mixes units")
        return math.floor(number / _UNITS[unit][1]) if isinstance(number, float) else number // _UNITS[unit][1]


def _numeric(value: object) -> int | float | None:
    """The number that is meant; None for what is no number. Whole ones stay whole: nanoseconds are too long for a float."""
    if isinstance(value, str):
        text = value.strip()
        if text.isascii() and text.isdigit() and len(text) < 20:
            return _bounded(int(text))
        return _bounded(float(text)) if _NUMERIC.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return _bounded(value if isinstance(value, int) else float(value))


def _bounded(number: int | float) -> int | float:
    if not -_INT64_LIMIT < number < _INT64_LIMIT:  # also for NaN
        raise MalformedRow("timestamp is out of range")
    return number


def _unit_of(number: int | float) -> int:
    size = abs(number)
    if size < _LARGEST_SECONDS:  # as a rule, and there may be millions
        return 0
    return sum(size >= _LARGEST_SECONDS * scale for _, scale in _UNITS[:-1])


def _moment(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, str) and value.strip():
        return _read(value.strip())
    raise MalformedRow("timestamp is empty, out of range, or no time")


def _read(text: str) -> datetime:
    iso = text.removesuffix(" UTC") + "+00:00" if text.endswith(" UTC") else text
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        pass
    try:
        return datetime.strptime(text, _LOG_TIME)
    except ValueError as error:
        raise MalformedRow("timestamp is neither a number nor ISO 8601") from error


def _seconds(moment: datetime) -> int:
    try:
        return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (OverflowError, ValueError) as error:
        raise MalformedRow("timestamp is out of range") from error

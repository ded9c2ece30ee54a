"""Rows that cannot be taken: each costs itself and is told by its place; too many cost the whole import."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from service.data.importers.dataset import Rejection
from service.errors import ImportRefused

MAX_REJECTED = 100

_PLACES_NAMED = 5

Row = Mapping[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row begins, and how many lines it takes: a record of CSV may span several."""

    file: str
    line: int
    lines: int = 1


class MalformedRow(Exception):
    """Never leaves the importers: `str()` is the reason of a Rejection."""


@dataclass(slots=True)
class Rejections:
    """The rows rejected so far, of all files of one import. One more than `limit` raises ImportRefused."""

    limit: int
    found: list[Rejection] = field(default_factory=list)
    lines_lost: int = 0

    def add(self, place: Place, reason: str) -> None:
        self.found.append(Rejection(place.file, place.line, reason))
        # A quote that does not end swallows many rows: each counts, or they would be lost in silence.
        self.lines_lost += place.lines
        if self.lines_lost > self.limit:
            first = "; ".join(f"{r.file} line {r.line}: {r.reason}" for r in self.found[:_PLACES_NAMED])
            raise ImportRefused(f"more than {self.limit} malformed rows, so nothing is imported. The first: {first}")


def collect(
    rows: Iterable[tuple[Place, Row]], rejected: Rejections, parse: Callable[[Place, Row], _T | None]
) -> list[_T]:
    """What `parse` makes of the rows, without those that it calls malformed or leaves out by None."""
    taken = []
    for place, row in rows:
        try:
            value = parse(place, row)
        except MalformedRow as error:
            rejected.add(place, str(error))
            continue
        if value is not None:
            taken.append(value)
    return taken

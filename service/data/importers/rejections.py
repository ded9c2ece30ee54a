"""Rows that cannot be taken: each costs itself and is told by its place; too many cost the whole import."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from service.data.importers.dataset import Limit, Rejection
from service.errors import ImportRefused

_TOLD = 5

Row = Mapping[str, Any]
_T = TypeVar("_T")


class RowLocation(NamedTuple):
    """Where a row begins, and how many lines it takes: a record of CSV may span several."""

    file: str
    line: int
    lines: int = 1
    counted: str = "line"  # row: in formats that know no lines


class MalformedRow(Exception):
    """Never leaves the importers: `str()` is the reason of a Rejection, and `column` where in the row it was found."""

    def __init__(self, reason: str, column: str | None = None) -> None:
        super().__init__(reason)
        self.column = column


@dataclass(slots=True)
class Rejections:
    """The rows rejected so far, of all files of one import. `settle` refuses the import if they are more than `limit`."""

    limit: Limit
    columns: Mapping[str, str] = field(default_factory=dict)  # our names -> those in the files, as they are told
    found: list[Rejection] = field(default_factory=list)  # the first few
    rejected: int = 0
    rows: int = 0  # all, with the rejected ones

    def add(self, location: RowLocation, reason: str, column: str | None = None) -> None:
        if len(self.found) < _TOLD:
            self.found.append(
                Rejection(
                    location.file, location.line, reason, self.columns.get(column or "", column), location.counted
                )
            )
        # A quote that does not end swallows many rows: each counts, or they would be lost in silence.
        self.rejected += location.lines
        self.rows += location.lines

    def settle(self) -> None:
        """Raises ImportRefused for too many rejections."""
        if not self.limit.allows(self.rejected, self.rows):
            self.refuse(
                f"{self.rejected:,} of {self.rows:,} rows cannot be taken, and --max-rejected allows {self.limit}"
            )

    def refuse(self, why: str) -> None:
        """Raises ImportRefused with the first places."""
        first = "; ".join(map(str, self.found))
        raise ImportRefused(f"{why}, so nothing is imported. The first: {first}")


def collect(
    rows: Iterable[tuple[RowLocation, Row]], rejected: Rejections, parse: Callable[[RowLocation, Row], _T | None]
) -> Iterator[_T]:
    """What `parse` makes of one file's rows, without those that it calls malformed or leaves out by None.

    Raises ImportRefused at the end where all were malformed.
    """
    before, taken = rejected.rejected, 0
    for location, row in rows:
        try:
            value = parse(location, row)
        except MalformedRow as error:
            rejected.add(location, str(error), error.column)
            continue
        rejected.rows += 1
        taken += 1
        if value is not None:
            yield value
    if not taken and rejected.rejected > before:
        rejected.refuse("not one row of a file can be taken")


def cell(row: Row, column: str, parse: Callable[[Any], _T]) -> _T:
    """What stands in a column. Raises MalformedRow, which names the column."""
    try:
        return parse(row.get(column))
    except MalformedRow as error:
        error.column = column
        raise

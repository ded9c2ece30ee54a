"""What an importer is told, and what it hands over."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from service.errors import ImportRefused
from service.records import Interaction, Item

_LIMIT = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<percent>%?)\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    """How many rows may be rejected before an import is refused: a share of its rows in percent, or a number of them."""

    number: float = 1.0
    percent: bool = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `1%`, `0.5%` or `100`. Raises ImportRefused."""
        read = _LIMIT.fullmatch(text)
        if read is None or (not read["percent"] and "." in read["number"]):
            raise ImportRefused("--max-rejected is a share of the rows, as 1%, or a number of rows, as 100")
        return cls(float(read["number"]), bool(read["percent"]))

    def allows(self, rejected: int, rows: int) -> bool:
        """Whether this many of this many rows may be rejected."""
        return rejected * 100 <= self.number * rows if self.percent else rejected <= self.number

    def __str__(self) -> str:
        return f"{self.number:g}%" if self.percent else f"{self.number:g}"


@dataclass(frozen=True, slots=True)
class Terms:
    """How an import takes rows, whatever the format.

    `known_items` holds the ids of items that have a catalog row elsewhere; None: nothing is known of them, so where no file
    of items is read either, interactions are not checked. With `create_items` they never are. `columns` maps our names of
    columns to those of the files. `watch` is told a file's name and size in bytes when its reading begins, and gives back
    what is told of every further bytes.
    """

    max_rejected: Limit = field(default_factory=Limit)
    implicit: bool = False  # every row is a like
    known_items: Container[str] | None = None
    create_items: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None  # None: found out
    watch: Callable[[str, int], Callable[[int], None]] | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that was not taken: file, line (in Parquet and JSON arrays the row; both from 1), column if one, and why."""

    file: str
    line: int
    reason: str
    column: str | None = None
    counted: str = "line"  # line | row

    def __str__(self) -> str:
        column = f", column {self.column}" if self.column else ""
        return f"{self.file} {self.counted} {self.line}{column}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """What an importer read. Of `rejected_rows` that were not taken, `rejected` tells the first few."""

    items: list[Item]
    interactions: Sequence[Interaction]
    item_type: str
    rejected: list[Rejection]
    rejected_rows: int = 0

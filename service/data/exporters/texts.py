"""Rows as text in UTF-8: CSV with a line of names (RFC 4180), or a JSON object a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from service.data.exporters.rows import ROWS_AT_ONCE, Columns, Row

_TRUTH = {"true": True, "false": False}
_READ: dict[type, Callable[[str], Any]] = {str: str, int: int, float: float, bool: _TRUTH.__getitem__}


class CsvFormat:
    """CSV: truth values are `true` and `false`, floats have as many digits as tell them apart."""

    def writer(self, file: IO[bytes], columns: Columns) -> CsvRows:
        """What writes rows into an open file."""
        return CsvRows(file, columns)

    def batches(self, path: Path, columns: Columns) -> Iterator[list[Row]]:
        """The rows of a finished file."""
        with path.open(encoding="utf-8", newline="") as file:
            read = csv.DictReader(file)
            while some := list(islice(read, ROWS_AT_ONCE)):
                yield [{name: _READ[kind](row[name]) for name, kind in columns.items()} for row in some]


class CsvRows:
    """Writes rows as they come, below the names of their columns."""

    def __init__(self, file: IO[bytes], columns: Columns) -> None:
        self._text = io.TextIOWrapper(file, "utf-8", newline="", write_through=False)
        self._columns = tuple(columns)
        self._lines = csv.writer(self._text)
        self._lines.writerow(self._columns)

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows."""
        self._lines.writerows([_told(row[name]) for name in self._columns] for row in rows)

    def close(self) -> None:
        """Hand on what was written; the file stays open."""
        self._text.detach()


class JsonLinesFormat:
    """A JSON object a line."""

    def writer(self, file: IO[bytes], columns: Columns) -> JsonRows:
        """What writes rows into an open file."""
        return JsonRows(file, columns)

    def batches(self, path: Path, columns: Columns) -> Iterator[list[Row]]:
        """The rows of a finished file."""
        with path.open(encoding="utf-8", newline="\n") as file:
            while some := list(islice(file, ROWS_AT_ONCE)):
                yield [json.loads(line) for line in some]


class JsonRows:
    """Writes rows as they come."""

    def __init__(self, file: IO[bytes], columns: Columns) -> None:
        self._file = file
        self._columns = tuple(columns)

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows."""
        told = ({name: row[name] for name in self._columns} for row in rows)
        self._file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in told)

    def close(self) -> None:
        """Nothing is kept back; the file stays open."""


def _told(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value

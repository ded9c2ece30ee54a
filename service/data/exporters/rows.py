"""What every format of an export does with rows. A column is a name and the type of its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

ROWS_AT_ONCE = 8_192  # in memory; a group of rows in Parquet

Columns = Mapping[str, type]
"""Name -> `str`, `int`, `float` or `bool`, in their order."""

Row = Mapping[str, Any]
"""A value of every column, by its name."""


class RowWriter(Protocol):
    """Writes rows into a file, which is whole once this is closed."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class RowFormat(Protocol):
    """A form of files."""

    def writer(self, file: IO[bytes], columns: Columns) -> RowWriter: ...

    def batches(self, path: Path, columns: Columns) -> Iterator[list[Row]]: ...

"""Rows as Parquet, in groups, so that no more of them than one group are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from service.data.exporters.rows import ROWS_AT_ONCE, Columns, Row

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class ParquetFormat:
    """Parquet, packed as pyarrow does it by default."""

    def writer(self, file: IO[bytes], columns: Columns) -> ParquetRows:
        """What writes rows into an open file."""
        return ParquetRows(file, columns)

    def batches(self, path: Path, columns: Columns) -> Iterator[list[Row]]:
        """The rows of a finished file."""
        with pq.ParquetFile(path) as content:
            for batch in content.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
                yield batch.to_pylist()


class ParquetRows:
    """Gathers rows into groups."""

    def __init__(self, file: IO[bytes], columns: Columns) -> None:
        self._schema = pa.schema([pa.field(name, _TYPES[kind], nullable=False) for name, kind in columns.items()])
        self._writer = pq.ParquetWriter(file, self._schema)
        self._gathered: list[Row] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Take rows, and write those that fill a group."""
        self._gathered += rows
        while len(self._gathered) >= ROWS_AT_ONCE:
            self._write_group(self._gathered[:ROWS_AT_ONCE])
            del self._gathered[:ROWS_AT_ONCE]

    def close(self) -> None:
        """Write the last group, and the table of groups without which the file is none."""
        if self._gathered:
            self._write_group(self._gathered)
            self._gathered = []
        self._writer.close()

    def _write_group(self, rows: Sequence[Row]) -> None:
        self._writer.write_batch(pa.RecordBatch.from_pylist(list(rows), self._schema))

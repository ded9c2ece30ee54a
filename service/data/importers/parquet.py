"""Rows of Parquet, whatever types its columns have."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.data.importers.files import PACKED, Watch, open_binary
from service.data.importers.rejections import Rejections, RowLocation
from service.data.importers.rows import Rows, check_columns
from service.errors import ImportRefused

_ROWS_AT_ONCE = 16_384
_YEARS = (-62_135_596_800, 253_402_300_799)  # in seconds: what Python's times hold, 0001 to 9999
_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def parquet_rows(path: Path, _rejected: Rejections, required: Sequence[str], watch: Watch | None = None) -> Rows:
    """Rows of Parquet: a damaged file is refused whole, as its rows cannot be told apart."""
    with open_binary(path, watch) as file:
        try:
            packed = path.suffix.lower() in PACKED
            content = pq.ParquetFile(io.BytesIO(file.read()) if packed else file)
            check_columns(path.name, content.schema_arrow.names, required)
            batches = content.iter_batches(_ROWS_AT_ONCE)
            rows = (row for batch in batches for row in _plain(batch).to_pylist())
            yield from (
                (RowLocation(path.name, number, counted="row"), row) for number, row in enumerate(rows, start=1)
            )
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise ImportRefused(f"{path.name} cannot be read as Parquet ({type(error).__name__})") from error


def _plain(batch: Any) -> Any:
    return pa.RecordBatch.from_arrays(list(map(_plain_column, batch.columns)), names=batch.schema.names)


def _plain_column(column: Any) -> Any:
    """Dictionaries as their values, dates as times, and times as Python has them: those that it has not are null."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s" if pa.types.is_date32(column.type) else "ms"))
    if not pa.types.is_timestamp(column.type):
        return column
    numbers, scale = column.cast(pa.int64()), _A_SECOND[column.type.unit]
    first, last = (max(-(2**63), min(2**63 - 1, second * scale)) for second in _YEARS)
    held = pc.and_(pc.greater_equal(numbers, first), pc.less_equal(numbers, last))
    column = pc.if_else(held, column, pa.scalar(None, column.type))
    # Python's times end at microseconds: finer columns would not convert. Their zone does not matter: all are UTC.
    return column.cast(pa.timestamp("us", column.type.tz and "UTC"), safe=False)

"""A file's rows, one after another, in each format: lines split at a separator, CSV, JSONL and Parquet.

A row is a mapping from column to value, and comes with its place. `required` names the columns that must be there.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.data.importers.files import open_binary, open_text
from service.data.importers.rejections import MalformedRow, Place, Rejections, Row
from service.errors import ImportRefused


def split_rows(
    path: Path, rejected: Rejections, names: Sequence[str], separator: str, encoding: str
) -> Iterator[tuple[Place, Row]]:
    """Lines without a header, split at the separator; no quoting."""
    with open_text(path, encoding) as lines:
        for number, line in enumerate(lines, start=1):
            place, fields = Place(path.name, number), line.rstrip("\r\n").split(separator)
            if len(fields) == len(names):
                yield place, dict(zip(names, fields, strict=True))
            elif line.strip():
                rejected.add(place, f"expected {len(names)} fields, found {len(fields)}")


def csv_rows(
    path: Path, rejected: Rejections, required: Sequence[str], encoding: str = "utf-8-sig", **dialect: Any
) -> Iterator[tuple[Place, Row]]:
    """CSV with a header; `dialect` is what `csv.reader` takes."""
    with open_text(path, encoding) as lines:
        records = _csv_records(csv.reader(lines, **dialect), path.name, rejected)
        _, header = next(records, (None, []))
        _check_columns(path.name, header, required)
        for place, fields in records:
            if len(fields) == len(header):
                yield place, dict(zip(header, fields, strict=True))
            elif fields:
                rejected.add(place, f"expected {len(header)} fields, found {len(fields)}")


def _csv_records(reader: Any, file: str, rejected: Rejections) -> Iterator[tuple[Place, list[str]]]:
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            rejected.add(Place(file, start, reader.line_num + 1 - start), "not CSV (a quote that does not end?)")
            continue
        yield Place(file, start, reader.line_num + 1 - start), fields


def jsonl_rows(path: Path, rejected: Rejections, required: Sequence[str]) -> Iterator[tuple[Place, Row]]:
    """One JSON object per line."""
    with open_text(path, "utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            place = Place(path.name, number)
            if not line.strip():
                continue
            try:
                yield place, _json_object(line, required)
            except MalformedRow as error:
                rejected.add(place, str(error))


def _json_object(line: str, required: Sequence[str]) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedRow("not JSON") from error
    if not isinstance(value, dict):
        raise MalformedRow("not a JSON object")
    missing = [name for name in required if name not in value]
    if missing:
        raise MalformedRow(f"lacks {', '.join(missing)}")
    return value


def parquet_rows(path: Path, _rejected: Rejections, required: Sequence[str]) -> Iterator[tuple[Place, Row]]:
    """Rows of Parquet: a damaged file is refused whole, as its rows cannot be told apart."""
    with open_binary(path) as file:
        try:
            content = pq.ParquetFile(file if path.suffix == ".parquet" else io.BytesIO(file.read()))
            _check_columns(path.name, content.schema_arrow.names, required)
            batches = content.iter_batches()
            rows = (row for batch in batches for row in _microseconds(batch).to_pylist())
            yield from ((Place(path.name, number), row) for number, row in enumerate(rows, start=1))
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise ImportRefused(f"{path.name} cannot be read as Parquet ({type(error).__name__})") from error


def _microseconds(batch: Any) -> Any:
    # Python's times end at microseconds: finer columns would not convert.
    columns = [
        column.cast(pa.timestamp("us", column.type.tz), safe=False) if pa.types.is_timestamp(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _check_columns(file: str, header: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in header]
    if missing:
        raise ImportRefused(f"{file} lacks the column(s) {', '.join(missing)}; the first line must name the columns")

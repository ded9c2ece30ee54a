"""A file's rows, one after another, in each text format: split lines, CSV with any delimiter, JSON lines and JSON arrays.

A row is a mapping from column to value, and comes with its place. `required` names the columns that must be there, as the
file calls them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from service.data.importers.delimiters import find_delimiter
from service.data.importers.files import Watch, format_suffix, open_text
from service.data.importers.rejections import MalformedRow, Rejections, Row, RowLocation
from service.errors import ImportRefused

_AT_ONCE = 1 << 16  # characters
_OPTIONAL = ("liked", "rating", "timestamp")  # columns of interactions
_LONGEST_ELEMENT = 1 << 24  # characters of one element of a JSON array

Rows = Iterator[tuple[RowLocation, Row]]


def split_rows(
    path: Path,
    rejected: Rejections,
    names: Sequence[str],
    separator: str,
    fallback: str | None = None,
    watch: Watch | None = None,
) -> Rows:
    """Lines without a header, split at the separator; no quoting."""
    with open_text(path, fallback, watch) as lines:
        yield from _split(path.name, enumerate(lines, start=1), names, separator, rejected)


def csv_rows(
    path: Path,
    rejected: Rejections,
    required: Sequence[str],
    delimiter: str | None = ",",
    fallback: str | None = None,
    watch: Watch | None = None,
    **dialect: Any,
) -> Rows:
    """CSV with a header; `dialect` is what `csv.reader` takes.

    Without a delimiter, or where the header does not hold it, the one by which the header falls into the required columns is
    taken. One of several characters knows no quotes. Raises ImportRefused where the header lacks a column.
    """
    with open_text(path, fallback, watch) as lines:
        first = _first_line(lines)
        chosen = delimiter if delimiter and delimiter in first else find_delimiter(first, required)
        if len(chosen) > 1:
            names = first.rstrip("\r\n").split(chosen)
            check_columns(path.name, names, required)
            yield from _split(path.name, enumerate(lines, start=2), names, chosen, rejected)
            return
        records = _csv_records(csv.reader(_again(first, lines), delimiter=chosen, **dialect), path.name, rejected)
        _, header = next(records, (None, []))
        check_columns(path.name, header, required)
        for location, fields in records:
            if len(fields) == len(header):
                yield location, dict(zip(header, fields, strict=True))
            elif fields:
                rejected.add(location, f"expected {len(header)} fields, found {len(fields)}")


def _first_line(lines: IO[str]) -> str:
    # A file in another format may be one line of gigabytes.
    return next(iter(lines), "")


def _again(first: str, rest: IO[str]) -> Iterator[str]:
    yield first
    yield from rest


def _split(
    file: str, lines: Iterator[tuple[int, str]], names: Sequence[str], separator: str, rejected: Rejections
) -> Rows:
    for number, line in lines:
        fields = line.rstrip("\r\n").split(separator)
        if len(fields) == len(names):
            yield RowLocation(file, number), dict(zip(names, fields, strict=True))
        elif line.strip():
            rejected.add(RowLocation(file, number), f"expected {len(names)} fields, found {len(fields)}")


def _csv_records(reader: Any, file: str, rejected: Rejections) -> Iterator[tuple[RowLocation, list[str]]]:
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            rejected.add(RowLocation(file, start, reader.line_num + 1 - start), "not CSV (a quote that does not end?)")
            continue
        yield RowLocation(file, start, reader.line_num + 1 - start), fields


def json_rows(path: Path, rejected: Rejections, required: Sequence[str], watch: Watch | None = None) -> Rows:
    """Objects: one per line, or in a `.json` that begins with a bracket the elements of one array."""
    with open_text(path, watch=watch) as text:
        if format_suffix(path) != ".json":
            yield from _line_rows(path.name, text, rejected, required)
            return
        begun = "\n"
        while begun.isspace():
            begun = text.read(_AT_ONCE)
        if begun.lstrip().startswith("["):
            yield from _array_rows(path.name, _Elements(begun.lstrip()[1:], text), rejected, required)
            return
    with open_text(path) as text:
        yield from _line_rows(path.name, text, rejected, required)


def _line_rows(file: str, lines: IO[str], rejected: Rejections, required: Sequence[str]) -> Rows:
    for number, line in enumerate(lines, start=1):
        location = RowLocation(file, number)
        if not line.strip():
            continue
        try:
            yield location, _checked(json.loads(line), required)
        except (ValueError, RecursionError):
            rejected.add(location, "not JSON")
        except MalformedRow as error:
            rejected.add(location, str(error), error.column)


def _array_rows(file: str, elements: _Elements, rejected: Rejections, required: Sequence[str]) -> Rows:
    number = 0
    try:
        for number, element in enumerate(elements, start=1):
            location = RowLocation(file, number, counted="row")
            try:
                yield location, _checked(element, required)
            except MalformedRow as error:
                rejected.add(location, str(error), error.column)
    except (ValueError, RecursionError) as error:
        raise ImportRefused(f"{file} is not a JSON array: what follows its row {number} cannot be read") from error


class _Elements:
    """The elements of an array whose bracket has been read, one by one. Raises ValueError where it is none."""

    def __init__(self, begun: str, rest: IO[str]) -> None:
        self._text, self._rest = begun, rest
        self._decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[Any]:
        if self._next_character() == "]":
            return
        while True:
            yield self._element()
            if (after := self._next_character()) == "]":
                return
            if after != ",":
                raise ValueError("no comma")
            self._text = self._text[1:]

    def _element(self) -> Any:
        self._next_character()
        while True:
            try:
                element, end = self._decoder.raw_decode(self._text)
            except ValueError:
                if len(self._text) > _LONGEST_ELEMENT or not self._more():
                    raise
                continue
            if end == len(self._text) and self._more():
                continue  # a number may go on
            self._text = self._text[end:]
            return element

    def _next_character(self) -> str:
        self._text = self._text.lstrip()
        while not self._text and self._more():
            self._text = self._text.lstrip()
        return self._text[:1]

    def _more(self) -> bool:
        # At least as much again: an element that is read from the start each time must not take quadratic time.
        read = self._rest.read(max(_AT_ONCE, len(self._text)))
        self._text += read
        return bool(read)


def _checked(value: Any, required: Sequence[str]) -> Row:
    if not isinstance(value, dict):
        raise MalformedRow("not a JSON object")
    missing = [name for name in required if name not in value]
    if missing:
        raise MalformedRow(f"lacks {', '.join(missing)}", missing[0])
    return value


def check_columns(file: str, header: Sequence[str], required: Sequence[str]) -> None:
    """Raises ImportRefused, which names what is missing or twice there, and nothing else of the file's first line.

    That line may be somebody's row.
    """
    missing = [name for name in required if name not in header]
    if missing:
        raise ImportRefused(
            f"{file} lacks the column(s) {', '.join(missing)}; the columns must have names, in text files in the "
            "first line; of a column with another name say so, as --column item_id=ITS_NAME"
        )
    if twice := [name for name in dict.fromkeys((*required, *_OPTIONAL)) if list(header).count(name) > 1]:
        raise ImportRefused(
            f"{file} has the column(s) {', '.join(twice)} more than once; leave all but one of them out"
        )

"""Lists of people that commands read from a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from service.entrypoints.commands.console import text_of
from service.errors import InvalidInput
from service.records import KeyRefused, key_of

_NAME = "user_id"


def people_in(path: Path) -> list[str]:
    """Everybody whom the file names, once, in its order: an id a line; or of `.csv` and `.jsonl` what `user_id` says.

    Raises InvalidInput, with the number of the line, for what is no id; never with what stands there.
    """
    text, suffix = text_of(path), path.suffix.lower()
    if suffix == ".csv":
        found = _of_csv(path, text)
    elif suffix in (".jsonl", ".ndjson"):
        found = _of_lines_of_json(path, text)
    else:
        found = enumerate((line.strip() for line in text.splitlines()), 1)
    known = list(dict.fromkeys(_keys(path, found)))
    if not known:
        raise InvalidInput(f"{path.name} names nobody; expected an id a line")
    return known


def _keys(path: Path, found: Iterable[tuple[int, object]]) -> Iterator[str]:
    for line, given in found:
        if given == "":
            continue
        try:
            yield key_of(given)
        except KeyRefused as error:
            raise InvalidInput(f"{path.name}, line {line}: an id {error}") from None


def _of_csv(path: Path, text: str) -> Iterator[tuple[int, object]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if _NAME not in (rows.fieldnames or ()):
        raise InvalidInput(f"{path.name} has no column {_NAME}; expected its name in the first line")
    return ((rows.line_num, row[_NAME]) for row in rows)


def _of_lines_of_json(path: Path, text: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            read = json.loads(line) if line.strip() else ""
        except ValueError:
            raise InvalidInput(f"{path.name}, line {number}: no JSON; expected an object with {_NAME}") from None
        yield number, read.get(_NAME) if isinstance(read, dict) else read

"""A file of personal data: whole or not at all, its owner's alone, and the same rows in every format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.data.exporters import ExportFile
from service.data.exporters.rows import ROWS_AT_ONCE
from service.errors import InvalidInput

COLUMNS: dict[str, type] = {"user_id": str, "rank": int, "score": float, "degraded": bool}
NAMES = ["plain", 'quoted "twice", and a comma', "two\nlines\r\n", "Ünïcode ✓", "=1+1"]
SUFFIXES = (".parquet", ".csv", ".jsonl", ".NDJSON")


def rows(count: int = len(NAMES)) -> list[dict[str, Any]]:
    return [
        {"user_id": NAMES[n % len(NAMES)], "rank": n, "score": 1 / (n + 3), "degraded": n % 2 == 0}
        for n in range(count)
    ]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a finished file."""
    with ExportFile(path, COLUMNS) as other:
        return [dict(row) for batch in other._format.batches(path, COLUMNS) for row in batch]


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"people{request.param}"


@contextmanager
def any_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_rows_come_back_as_they_were(path: Path) -> None:
    with ExportFile(path, COLUMNS) as file:
        file.write(rows()[:2])
        file.write(rows()[2:])
        file.finish()
    assert read(path) == rows()


def test_more_rows_than_a_group_come_back_in_their_order(tmp_path: Path) -> None:
    many = rows(2 * ROWS_AT_ONCE + 7)
    with ExportFile(tmp_path / "many.parquet", COLUMNS) as file:
        file.write(many)
        assert [len(batch) for batch in file.batches()] == [ROWS_AT_ONCE, ROWS_AT_ONCE, 7]
        file.finish()
    assert read(tmp_path / "many.parquet") == many


def test_it_is_readable_by_its_owner_alone_and_replaces_what_was_there(path: Path) -> None:
    path.write_text("older")
    path.chmod(0o644)
    with any_umask(), ExportFile(path, COLUMNS) as file:
        file.write(rows())
        assert path.read_text() == "older"
        file.finish()
    assert path.stat().st_mode & 0o777 == 0o600
    assert read(path) == rows()
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_left_of_what_was_not_finished(path: Path) -> None:
    def break_off() -> None:
        with ExportFile(path, COLUMNS) as file:
            file.write(rows())
            file.drop("user_id", {"plain"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list(path.parent.iterdir()) == []


def test_rows_are_dropped_and_others_taken_afterwards(path: Path) -> None:
    with ExportFile(path, COLUMNS) as file:
        file.write(rows())
        assert {row["user_id"] for batch in file.batches() for row in batch} == set(NAMES)
        with pytest.raises(ValueError, match="no others"):
            file.write(rows())
        assert file.drop("user_id", {"plain", "=1+1"}) == 2
        file.write(rows()[:1])
        file.finish()
    assert read(path) == [*rows()[1:4], rows()[0]]


def test_a_file_may_be_empty(path: Path) -> None:
    with ExportFile(path, COLUMNS) as file:
        file.finish()
    assert read(path) == []


@pytest.mark.parametrize("name", ["people.xlsx", "people", "missing/people.csv"])
def test_what_cannot_be_written_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput), ExportFile(tmp_path / name, COLUMNS):
        pass


def test_the_name_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "people.csv").mkdir()
    with pytest.raises(InvalidInput, match="folder"):
        ExportFile(tmp_path / "people.csv", COLUMNS)

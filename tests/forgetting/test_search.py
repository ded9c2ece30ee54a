"""A search of files finds a text wherever it stands as a value, and not inside the values of others."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from service.data.traces import texts_to_look_for
from service.forgetting.evidence import TextSearch, look_for
from service.forgetting.search import files_with, forms_of
from service.ledger import Ledger
from service.records import Interaction, Item

SECRET = b"a secret of the tests"
TEXT = "user-12"
ITEMS = [Item(f"{number}", f"Film {number}") for number in range(40)]
OTHERS = [f"user-{number}" for number in (1, 2, 120, 123, 1234)]


def no_image() -> bytes:
    raise AssertionError("nothing was to be compared with the database")


def holds(folder: Path, text: str, loose: bool = False) -> bool:
    return bool(files_with(folder, forms_of(text, loose), None, no_image).hits)


WAYS = [
    lambda text: text.encode(),
    lambda text: text.encode("utf-16-le"),
    lambda text: text.encode("utf-16-be"),
    lambda text: json.dumps(text)[1:-1].encode(),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", ["kanarek-1", 'kanarek "Zoë" \\ 鳥🐦'])
def test_every_form_is_found_between_any_delimiters_and_inside_longer_ones_if_it_is_loose(
    tmp_path: Path, way: Callable[[str], bytes], text: str
) -> None:
    file = tmp_path / "deep" / "file"
    file.parent.mkdir()
    for before, after in (
        ("", ""),
        ('{"id":"', '"}'),
        ("a,", ",b"),
        ("\n", "\r\n"),
        ("\x00", "\x00"),
        ("鳥 ", " 鳥"),
        ("é\t", "\t"),
    ):
        file.write_bytes(b"\xff\xd8" * 500 + way(before) + way(text) + way(after) + b"\xff\xd8" * 10)
        assert holds(tmp_path, text), (before, after)
    for before, after in (("x", ""), ("", "9"), ("é", ""), ("a-", ""), ("", "_b")):
        file.write_bytes(b"\x00" * 100 + way(before) + way(text) + way(after) + b"\x00" * 10)
        assert not holds(tmp_path, text), (before, after)
        assert holds(tmp_path, text, loose=True)
    file.write_bytes(way(text)[:-1])
    assert not holds(tmp_path, text, loose=True)


def test_the_name_of_a_file_counts(tmp_path: Path) -> None:
    (tmp_path / "kanarek-1.log").touch()
    assert holds(tmp_path, "kanarek-1")
    assert not holds(tmp_path, "kanarek")
    assert holds(tmp_path, "kanarek", loose=True)


# A whole home folder


class Home:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite", SECRET)
        rows = [Interaction(user, item.item_id, True, 5) for user in (TEXT, *OTHERS) for item in ITEMS]
        self.ledger.import_data(ITEMS, rows, "movie")

    def forgotten(self) -> Home:
        self.ledger.forget(TEXT, None, None)
        self.ledger.erase_traces()
        return self

    def search(self, content: str = TEXT) -> TextSearch:
        return look_for(self.ledger, self.folder, texts_to_look_for(content))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_rows_and_pages_of_somebody_who_is_held_are_found(home: Home) -> None:
    search = home.search()
    assert search.rows == {"changes.user_id": 1, "interactions.user_id": len(ITEMS)}
    assert "ledger.sqlite" in {path.name.removesuffix("-wal") for path in search.files.hits}


def test_nothing_is_found_of_who_is_gone_though_others_ids_begin_with_theirs(home: Home) -> None:
    search = home.forgotten().search()
    assert (search.found, search.rows, search.files.hits) == (0, {}, ())
    assert search.values > len(OTHERS) * len(ITEMS)
    assert search.files.bytes > 0


def test_pages_that_the_database_did_not_rewrite_are_found_though_others_ids_begin_so(home: Home) -> None:
    with closing(sqlite3.connect(home.folder / "ledger.sqlite", isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("DELETE FROM interactions WHERE user_id = ?", [TEXT])
        connection.execute("DELETE FROM changes WHERE user_id = ?", [TEXT])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    search = home.search()
    assert search.rows == {}
    assert [path.name for path in search.files.hits] == ["ledger.sqlite"]
    home.ledger.erase_traces()
    assert home.search().found == 0


def test_a_copy_of_an_old_ledger_in_the_home_folder_is_found(home: Home) -> None:
    with (
        closing(sqlite3.connect(home.folder / "ledger.sqlite")) as source,
        closing(sqlite3.connect(home.folder / "backup.db")) as copy,
    ):
        source.backup(copy)
    search = home.forgotten().search()
    assert [path.name for path in search.files.hits] == ["backup.db"]


@pytest.mark.parametrize("short", ["5", "\ufeff5\n", " 5 ", "12", "film"])
def test_a_short_id_is_compared_with_columns_and_named_as_no_evidence_in_files(home: Home, short: str) -> None:
    search = home.search(short)
    assert search.found == 0
    assert search.too_short == (1,)
    assert search.in_files == 0
    said = "\n".join(search.lines())
    assert "line 1 of the list is too short" in said
    assert short.strip() not in said.replace("1 texts", "").split("no evidence")[1]


def test_a_short_id_that_is_held_is_found(home: Home) -> None:
    home.ledger.import_data([], [Interaction("7", "1", True, 5)], None)
    assert home.search("7").rows == {"changes.user_id": 1, "interactions.user_id": 1}


def test_an_items_id_is_told_and_no_trace_of_a_person_and_a_title_is_found(home: Home) -> None:
    home.ledger.import_data([Item("book-of-dune", "Dune")], [Interaction("user-1", "book-of-dune", True, 5)], None)
    search = home.search("x\nbook-of-dune")
    assert (search.found, search.item_ids) == (0, {2: 2})
    assert "line 2 of the list is also an item's id in the catalog (2 rows" in "\n".join(search.lines())
    assert home.search("\ufeffFilm 7\n").rows == {"items.title": 1}


def test_a_log_that_somebody_keeps_is_found_whatever_its_encoding(home: Home) -> None:
    home.forgotten()
    log = home.folder / "logs" / "other.log"
    log.parent.mkdir()
    for content in (f'{{"user": "{TEXT}"}}'.encode(), f"GET /x?user={TEXT} 200".encode(), TEXT.encode("utf-16")):
        log.write_bytes(content)
        assert [path.name for path in home.search().files.hits] == ["other.log"]
    log.write_text(f"{TEXT}3 is somebody else")
    assert home.search().found == 0
    home.ledger.forget("user-123", None, None)
    assert home.search("user-123").said(home.folder).startswith(
        "1 files with a text that was looked for (logs/other.log)"
    ) or ("ledger.sqlite" in home.search("user-123").said(home.folder))


def test_a_store_that_lies_elsewhere_is_searched_by_content_and_by_name(home: Home) -> None:
    home.forgotten()
    stored = [
        (Path("adapters/a/config"), f"of {TEXT}.".encode()),
        (Path(f"memory/{TEXT}"), b""),
        (Path("ACTIVE"), b"a"),
    ]
    found = look_for(home.ledger, home.folder, texts_to_look_for(TEXT), stored)
    assert [str(path.relative_to(home.folder)) for path in found.files.hits] == [
        f"store/{path}" for path, _ in stored[:2]
    ]
    assert found.files.files == home.search().files.files + 3
    assert "store/adapters/a/config" in found.said(home.folder)

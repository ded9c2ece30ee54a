"""A replica that could take no deletion is not ready: the ledger reads only, or a disk is full."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest

from adapters_store import StoreFailure
from service.entrypoints.http.readiness import Writability
from service.errors import LedgerUnavailable, StoreError
from service.ledger import Ledger
from tests.disks import small_disk

SECRET = b"a secret of the tests"


class Folder:
    """A disk that can be written, or not."""

    def __init__(self) -> None:
        self.asked: list[Path] = []
        self.full = False

    def write(self, folder: Path) -> None:
        self.asked.append(folder)
        if self.full:
            raise StoreFailure("cannot write a file: No space left on device. The disk is full")


class AnyLedger:
    def require_writable(self) -> None:
        pass


def test_each_folder_is_written_to_and_named_when_it_cannot_be(tmp_path: Path) -> None:
    folder = Folder()
    Writability(AnyLedger(), {"the home folder": tmp_path, "the store": tmp_path / "store"}, folder.write).require()
    assert folder.asked == [tmp_path, tmp_path / "store"]
    folder.full = True
    with pytest.raises(StoreError, match=r"the home folder cannot be written.*The disk is full"):
        Writability(AnyLedger(), {"the home folder": tmp_path}, folder.write).require()


def test_who_asks_often_is_told_what_was_found_last(tmp_path: Path) -> None:
    folder = Folder()
    folder.full = True
    asking = Writability(AnyLedger(), {"home": tmp_path}, folder.write)
    for _ in range(5):
        with pytest.raises(StoreError):
            asking.require()
    assert len(folder.asked) == 1


def test_nothing_stays_of_the_probe(tmp_path: Path) -> None:
    Writability(AnyLedger(), {"home": tmp_path}).require()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_and_a_read_only_one_are_noticed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk, Ledger(disk.path / "ledger.sqlite", SECRET) as ledger:

        def ask() -> None:
            Writability(ledger, {"the home folder": disk.path}).require()

        ask()
        disk.fill()
        with pytest.raises((StoreError, LedgerUnavailable), match="disk is full"):
            ask()
        disk.make_room()
        ask()
    with small_disk(tmp_path / "other", "4m") as disk:
        disk.make_read_only()
        with pytest.raises(StoreError, match="read-only"):
            Writability(AnyLedger(), {"the home folder": disk.path}).require()


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from service.ledger import Ledger
from service.errors import LedgerUnavailable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger(Path(sys.argv[1]), b"a secret of the tests")
ledger.require_writable()
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
try:
    ledger.require_writable()
except LedgerUnavailable as error:
    print(error)
"""


def test_an_sqlite_file_that_may_not_grow_is_noticed(tmp_path: Path) -> None:
    """Also where no disk may be mounted: a limit on the size of files stands for the full disk."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path / "ledger.sqlite")], capture_output=True, text=True, check=True
    )
    assert "SQLITE_" in done.stdout
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_another_writer_is_no_reason_to_be_unready(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, SECRET) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        ledger.require_writable()
        other.execute("ROLLBACK")
        other.close()
        ledger.forget("ann", None, None)  # and the ledger is as patient as before


def test_a_postgresql_that_answers_reads_only_is_noticed_and_another_writer_is_not(
    new_database: Callable[[], AbstractContextManager[str]],
) -> None:
    with new_database() as url, Ledger(url, SECRET) as ledger:
        ledger.require_writable()
        with psycopg.connect(url) as other:
            other.execute("SELECT id FROM state FOR UPDATE")
            ledger.require_writable()
        with psycopg.connect(url, autocommit=True) as other:
            name = other.info.dbname
            other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        ledger.close()  # connections that are there already go on as they were
        with pytest.raises(LedgerUnavailable, match="answers reads only"):
            ledger.require_writable()
        assert ledger.mask().fence == 0

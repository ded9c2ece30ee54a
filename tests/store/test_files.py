"""Files that are made once, whole, whoever else makes them."""

from __future__ import annotations

import stat
import threading
from functools import partial
from pathlib import Path

from adapters_store import write_once


def test_the_first_content_stays_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content in (b"first", b"second"):
        write_once(path, partial(bytes, content))
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path, stray = tmp_path / "secret", tmp_path / ".secret-5f3a"
    for _ in range(2):
        stray.write_bytes(b"half")
        write_once(path, lambda: b"whole")
        assert (list(tmp_path.iterdir()), path.read_bytes()) == ([path], b"whole")


def test_all_that_make_it_at_once_find_the_same(tmp_path: Path) -> None:
    path, found = tmp_path / "secret", []
    gate = threading.Barrier(8)

    def make(number: int) -> None:
        gate.wait()
        write_once(path, lambda: bytes([number]) * 32)
        found.append(path.read_bytes())

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [path.read_bytes()] * 8
    assert list(tmp_path.iterdir()) == [path]

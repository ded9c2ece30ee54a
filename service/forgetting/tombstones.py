"""The tombstones once more, in a file of the home folder: an old ledger that is restored does not know the later ones.

One JSON object a line, only ever appended to: a deletion is answered after its line is on the disk. The file holds keyed
hashes; keep it, and the secret, when you restore a ledger.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapters_store import canonical_json, sync_directory
from service.errors import Damaged, StoreError
from service.records import Tombstone

_BURIED, _RETURNED = "buried", "returned"


class TombstoneFile:
    """Safe for many processes and threads at once. Raises StoreError when the file cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._standing: dict[tuple[str, str], Tombstone] = {}
        self._read_to = 0  # bytes
        self._lines = 0
        self._turn = threading.RLock()
        self._descriptor: int | None = None  # while it is locked

    def standing(self) -> list[Tombstone]:
        """All tombstones that no return has removed. Raises Damaged, naming the line, if the file is not sound."""
        with self.locked():
            return list(self._standing.values())

    def bury(self, tombstones: Iterable[Tombstone]) -> None:
        """Append those that do not stand yet, or for a shorter time."""
        with self.locked() as descriptor:
            new = [stone for stone in tombstones if stone.adds_to(self._standing.get((stone.subject, stone.grave)))]
            self._append(descriptor, _BURIED, new)

    def remove(self, tombstones: Iterable[Tombstone]) -> None:
        """Append that the users of these came back."""
        with self.locked() as descriptor:
            self._append(descriptor, _RETURNED, [s for s in tombstones if (s.subject, s.grave) in self._standing])

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Nobody else reads or writes the file meanwhile: to compare it with a ledger, or to change both."""
        with self._turn:
            if self._descriptor is not None:
                yield self._descriptor
                return
            with _failures():
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                with _failures():
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                    self._catch_up(self._descriptor)
                yield self._descriptor
            finally:
                os.close(self._descriptor)
                self._descriptor = None

    def _catch_up(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size < self._read_to:  # somebody put another file here
            self._standing, self._read_to, self._lines = {}, 0, 0
        content = os.pread(descriptor, size - self._read_to, self._read_to)
        whole = content[: content.rfind(b"\n") + 1]  # a torn last line was never confirmed to anybody
        for line in whole.splitlines():
            self._lines += 1
            self._take(*_parsed(line, self._lines))
        self._read_to += len(whole)

    def _take(self, event: str, tombstone: Tombstone) -> None:
        key = (tombstone.subject, tombstone.grave)
        if event == _BURIED:
            self._standing[key] = tombstone
        else:
            self._standing.pop(key, None)

    def _append(self, descriptor: int, event: str, tombstones: Collection[Tombstone]) -> None:
        if not tombstones:
            return
        lines = b"".join(canonical_json({"event": event} | _stated(tombstone)) for tombstone in tombstones)
        with _failures():
            os.ftruncate(descriptor, self._read_to)
            if os.write(descriptor, lines) < len(lines):
                raise OSError(None, "the disk is full")
            os.fsync(descriptor)
            if self._read_to == 0:
                sync_directory(self._path.parent)
            self._catch_up(descriptor)


def _stated(tombstone: Tombstone) -> dict[str, Any]:
    # What stands for ever is written as it always was, so that earlier versions can read it.
    return {name: value for name, value in asdict(tombstone).items() if value is not None}


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the tombstone file in the home folder cannot be used ({error.strerror}); "
            "a deletion is only confirmed when it is written there: make room, or make it writable, and ask again"
        ) from error


def _parsed(line: bytes, number: int) -> tuple[str, Tombstone]:
    try:
        stated: dict[str, Any] = json.loads(line)
        event = stated.pop("event")
        if event not in (_BURIED, _RETURNED):
            raise ValueError(event)
        return event, Tombstone(**stated)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Damaged(
            f"line {number} of the tombstone file in the home folder is not sound; restore the file from a backup"
        ) from None

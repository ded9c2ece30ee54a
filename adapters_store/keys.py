"""Keys of directories: what an encrypted store asks of the place where they are kept, which is not its own."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Protocol

from adapters_store.sealing import new_key


class DirectoryKeys(Protocol):
    """One key of 32 bytes for each directory (`adapters/<digest>`). Safe for many processes and threads at once."""

    def create(self, directory: str) -> bytes:
        """Return the directory's key, made now if there is none: of many who ask at once all get the same."""
        ...

    def find(self, directory: str) -> bytes | None:
        """Return the directory's key, or None if there is none, or none any more."""
        ...

    def directories(self) -> frozenset[str]:
        """Return the directories that have a key."""
        ...

    def destroy(self, directories: Collection[str]) -> None:
        """Destroy the keys of these directories: what was sealed with them can be opened by nobody from then on."""
        ...


class KeysInMemory:
    """Keys that end with their process: of a store that nobody needs after it, and those that a task is given."""

    def __init__(self, known: Mapping[str, bytes] | None = None) -> None:
        self._keys = dict(known or {})
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[KeysInMemory], tuple[dict[str, bytes]]]:
        return KeysInMemory, (self._keys,)

    def create(self, directory: str) -> bytes:
        """Return the directory's key, made now if there is none."""
        with self._lock:
            return self._keys.setdefault(directory, new_key())

    def find(self, directory: str) -> bytes | None:
        """Return the directory's key, if it has one."""
        return self._keys.get(directory)

    def directories(self) -> frozenset[str]:
        """Return the directories that have a key."""
        with self._lock:
            return frozenset(self._keys)

    def destroy(self, directories: Collection[str]) -> None:
        """Let go of these keys."""
        with self._lock:
            for directory in directories:
                self._keys.pop(directory, None)

"""What may be shown: the catalog's entries as they are now, in memory, read anew as soon as the ledger says that they changed.

Every request asks for the revision, so from the answer to a change on no replica shows what it hid.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.records import CatalogEntry
from service.scoring.filters import Conditions

_KEPT = 32  # filters whose items are remembered

Flags = NDArray[np.bool_]


class ShelfSource(Protocol):
    """The ledger, as far as the shelf needs it."""

    def availability_revision(self) -> int: ...

    def catalog_entries(self) -> tuple[int, tuple[CatalogEntry, ...]]: ...


class Shelf:
    """The entries of one revision, immutable. Any thread may ask it."""

    def __init__(self, revision: int, entries: Sequence[CatalogEntry]) -> None:
        self.revision = revision
        self._entries = {entry.item.item_id: entry for entry in entries}
        self._timed = [
            entry
            for entry in entries
            if not entry.hidden
            and not entry.deleted
            and (entry.available_from is not None or entry.available_until is not None)
        ]
        self._found: OrderedDict[tuple[str, Conditions], Flags] = OrderedDict()
        self._turn = threading.Lock()

    def shows(self, item_id: str, wanted: Conditions, now: float) -> bool:
        """Whether an item may be shown now, and is wanted."""
        entry = self._entries.get(item_id)
        return entry is not None and entry.shown_at(now) and all(one.holds_of(entry) for one in wanted)

    def shown(self, generation: str, number: Mapping[str, int], wanted: Conditions, now: float) -> Flags:
        """(N,): which of the items of a generation (id -> number) may be shown now, and are wanted."""
        found = self._whenever(generation, number, wanted)
        closed = [
            number[entry.item.item_id]
            for entry in self._timed
            if entry.item.item_id in number and not entry.shown_at(now)
        ]
        if not closed:
            return found
        open_now = found.copy()
        open_now[closed] = False
        return open_now

    def _whenever(self, generation: str, number: Mapping[str, int], wanted: Conditions) -> Flags:
        key = generation, wanted
        with self._turn:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        flags = np.fromiter((self._fits(item_id, wanted) for item_id in number), np.bool_, len(number))
        with self._turn:
            self._found[key] = flags
            while len(self._found) > _KEPT:
                self._found.popitem(last=False)
        return flags

    def _fits(self, item_id: str, wanted: Conditions) -> bool:
        entry = self._entries.get(item_id)
        if entry is None or entry.hidden or entry.deleted:
            return False
        return all(one.holds_of(entry) for one in wanted)


class Shelves:
    """Holds the newest shelf."""

    def __init__(self, source: ShelfSource, clock: Callable[[], float] = time.time) -> None:
        self._source = source
        self._reading = threading.Lock()
        self._current: Shelf | None = None
        self.clock = clock  # seconds since the epoch

    def current(self) -> Shelf:
        """The shelf as it is now. Raises LedgerUnavailable."""
        revision = self._source.availability_revision()
        known = self._current
        if known is not None and known.revision >= revision:
            return known
        with self._reading:
            if self._current is None or self._current.revision < revision:
                self._current = Shelf(*self._source.catalog_entries())
            return self._current

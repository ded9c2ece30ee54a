"""Rows of people who may have asked for deletion: who comes back of their own will is taken off the tombstone file, too."""

from __future__ import annotations

from collections.abc import Sequence

from service.forgetting.ports import ArrivalLedger
from service.forgetting.tombstones import TombstoneFile
from service.ledger import Event, EventOutcome


class EventIntake:
    """Takes events into the ledger."""

    def __init__(self, ledger: ArrivalLedger, tombstones: TombstoneFile) -> None:
        self._ledger = ledger
        self._tombstones = tombstones

    def take(self, events: Sequence[Event], allow_returning: bool = False) -> list[EventOutcome]:
        """`Ledger.take_events`. Raises InvalidInput, LedgerUnavailable, StoreError: nothing was taken."""
        if not allow_returning:
            return self._ledger.take_events(events)
        with self._tombstones.locked():
            # Before they are back: a crash in between must not have them forgotten again at the next start.
            self._tombstones.remove(self._ledger.tombstones_over(event.row for event in events))
            return self._ledger.take_events(events, allow_returning=True)

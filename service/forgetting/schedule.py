"""When what has arrived is to count: after so many rows, or so much time. Deletions wait for neither, and go first."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class ArrivedRows(Protocol):
    """The ledger, as far as the schedule needs it."""

    def beyond_horizon(self) -> int: ...


class BuildSchedule:
    """Full builds by amount and by time. `every` is in seconds; 0 switches either off."""

    def __init__(self, every: float = 0.0, after: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """The first full build is due `every` seconds from now."""
        self._every, self._after, self._clock = every, after, clock
        self._last = clock()

    def is_due(self, ledger: ArrivedRows) -> bool:
        """Whether a full build should begin now: never for nothing. Asks the ledger only if a schedule is set."""
        if not self._every and not self._after:
            return False
        waiting = ledger.beyond_horizon()
        by_time = bool(self._every) and self._clock() - self._last >= self._every
        return waiting > 0 and (by_time or bool(self._after and waiting >= self._after))

    def note(self) -> None:
        """A full build has begun."""
        self._last = self._clock()

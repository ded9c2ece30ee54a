"""What people were shown, on its way into the ledger: noted with the answer, written in batches beside the requests.

Nothing waits for it, and it may be lost with the process. The ledger decides what it still holds when it is written: nothing
of who has asked for a deletion meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from service.errors import LetheError
from service.records import Impression
from service.scoring.requests import Recommendation

PAUSE = 0.5  # seconds between two batches
_MOST_WAITING = 10_000  # impressions; further ones are lost
_AT_ONCE = 500  # impressions of one transaction

log = logging.getLogger(__name__)


class ImpressionLedger(Protocol):
    """Holds what may be held of impressions, and says how many that is. Raises LedgerUnavailable."""

    def record(self, given: Sequence[Impression]) -> int: ...


class ImpressionRecorder:
    """Records impressions of people who are known. Every method may be called from any thread.

    `clock` tells seconds since the epoch; `observe` is told how many were `recorded`, `left_out` by the ledger, and `lost`.
    """

    def __init__(
        self,
        ledger: ImpressionLedger,
        clock: Callable[[], float],
        observe: Callable[[Mapping[str, int]], None] = lambda _: None,
        pause: float = PAUSE,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        self._ledger, self._clock, self._observe = ledger, clock, observe
        self._pause, self._most_waiting = pause, most_waiting
        self._waiting: deque[Impression] = deque()
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)

    def start(self) -> None:
        """Write what waits from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def note(self, user_id: str | None, recommendation_id: str, found: Recommendation) -> None:
        """Keep for the next batch what this answer has shown, if it is of somebody who is known."""
        shown = tuple(item.item_id for item in found.items if item.item_id)
        if user_id is None or found.cold or not shown:
            return
        if len(self._waiting) >= self._most_waiting:
            self._observe({"lost": 1})
            return
        self._waiting.append(
            Impression(recommendation_id, user_id, shown, found.generation, found.fence, self._clock())
        )

    def flush(self) -> None:
        """Write what waits now: when it returns, the ledger has it, or it is lost."""
        with self._writing:
            taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
            for at in range(0, len(taken), _AT_ONCE):
                self._write(taken[at : at + _AT_ONCE])

    def _write(self, some: Sequence[Impression]) -> None:
        counts = Counter[str]()
        try:
            counts["recorded"] = self._ledger.record(some)
            counts["left_out"] = len(some) - counts["recorded"]
        except LetheError as error:
            # Not tried again: what is of people should not wait in memory for a ledger that may be away for long.
            counts["lost"] = len(some)
            log.warning("impressions_lost", extra={"kind": type(error).__name__})
        self._observe(counts)

    def _run(self) -> None:
        while not self._stopping.wait(self._pause):
            self.flush()
        self.flush()


class Unrecorded:
    """Stands where no impressions are wanted."""

    def start(self) -> None:
        return None

    def stop(self) -> None:
        return None

    def note(self, user_id: str | None, recommendation_id: str, found: Recommendation) -> None:
        return None

    def flush(self) -> None:
        return None

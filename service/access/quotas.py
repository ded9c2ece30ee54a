"""Token buckets: how much each caller may do a minute. What is not used fills up again, to a minute's worth at most."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

_MINUTE = 60.0  # seconds
_BUCKETS = 65_536  # that are remembered; whoever has not asked for longest is forgotten first


@dataclass(frozen=True, slots=True)
class Level:
    """What a bucket answered. `left` is what may be taken at once, `seconds` how long until what was asked for is there."""

    granted: bool
    left: float
    seconds: float

    @property
    def retry_after(self) -> int:
        """Whole seconds, one at least."""
        return max(1, math.ceil(self.seconds))


class Buckets(Protocol):
    """Any number of buckets by name."""

    def take(self, name: str, limit: int, cost: int) -> Level:
        """Take `cost` out of the bucket `name`, which holds `limit` and gets as much again each minute.

        What costs more than the whole bucket is granted when it is full; the bucket is then in debt, and refuses until that is
        paid. A refusal takes nothing.
        """


class LocalBuckets:
    """Buckets of this process. Threads share them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = _BUCKETS) -> None:
        self._clock = clock
        self._most = most
        self._guard = threading.Lock()
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> level, and when that was

    def take(self, name: str, limit: int, cost: int) -> Level:
        """Take what `Buckets.take` describes."""
        with self._guard:
            now = self._clock()
            before, since = self._held.pop(name, (float(limit), now))
            filled = min(float(limit), before + (now - since) * limit / _MINUTE)
            level = level_after(filled, limit, cost)
            self._held[name] = (filled - cost if level.granted else filled, now)
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return level


def level_after(filled: float, limit: int, cost: int) -> Level:
    """What a bucket answers that is filled so far."""
    wanted = min(cost, limit)
    if filled >= wanted:
        return Level(True, max(0.0, filled - cost), 0.0)
    return Level(False, max(0.0, filled), (wanted - filled) * _MINUTE / limit)

"""How long tokens take to score, learned from the batches just scored."""

from __future__ import annotations

import math
from collections import deque

_BATCHES = 9  # few enough to follow a change of load


class Pace:
    """Seconds a token, as in the best of the last batches.

    A batch may have been small, or may have waited for a generation or a processor. Whoever is refused by this pace could not
    have been answered in time even if none of that happens again.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_BATCHES)

    def learn(self, tokens: int, seconds: float) -> None:
        """A batch of so many tokens took so long."""
        self._recent.append(seconds / tokens)

    def seconds(self, tokens: int) -> float:
        """How long so many tokens will take; 0 while nothing is known."""
        return tokens * min(self._recent, default=0.0)

    def tokens(self, seconds: float) -> float:
        """How many tokens take so long; no end of them while nothing is known."""
        best = min(self._recent, default=0.0)
        return seconds / best if best else math.inf

"""How long tokens take to score, learned from the batches just scored."""

from __future__ import annotations

from collections import deque
from statistics import median

_BATCHES = 9  # few enough to follow a change of load, enough that one batch which loaded a generation decides nothing


class Pace:
    """Seconds a token, as the median of the last batches."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_BATCHES)

    def learn(self, tokens: int, seconds: float) -> None:
        """A batch of so many tokens took so long."""
        self._recent.append(seconds / tokens)

    def seconds(self, tokens: int) -> float:
        """How long so many tokens will take; 0 while nothing is known."""
        return tokens * median(self._recent) if self._recent else 0.0

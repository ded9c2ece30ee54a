"""Maximal marginal relevance (Carbonell and Goldstein 1998): items that are good, and unlike those that stand before them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def diversified(value: Doubles, embeddings: Doubles, count: int, diversity: float) -> list[int]:
    """The places of `count` items (or all) in their new order.

    `value` (C,) is what the items are worth, more is better; `embeddings` (C, H) are rows of unit length, or zeros where an
    item has none. Each next item has the largest (1 - d) · worth - d · likeness, worth scaled to 0..1, likeness being the
    largest cosine to an item that was chosen. `diversity` d = 0 is the plain order.
    """
    if not len(value):
        return []
    spread = value.max() - value.min()
    worth = (value - value.min()) / spread if spread > 0 else np.zeros(len(value))
    likeness = np.zeros(len(value))
    left = np.ones(len(value), np.bool_)
    chosen: list[int] = []
    for _ in range(min(count, len(value))):
        gain = np.where(left, (1.0 - diversity) * worth - diversity * likeness, -np.inf)
        best = int(np.argmax(gain))
        chosen.append(best)
        left[best] = False
        alike = embeddings @ embeddings[best]
        likeness = alike if len(chosen) == 1 else np.maximum(likeness, alike)
    return chosen

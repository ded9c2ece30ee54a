"""A history and the live counts -> how much speaks for every item of the catalog. Work grows with the history, not the catalog.

    s(i) = Σ_j d^age(j) · w_ji · p_ji / (p_ji + 8 / h) · (n_j + 5)^-0.65 · (n_i + 5)^-0.65

over the items j of the history: w are the weighted pairs (liked together, or liked soon after), p the people who made each, h
the length of the history, n the numbers of likes (of the earlier item of a succession, of opinions), and d^age lets older items
say less. What few people have in common may be chance: a long history averages it out, a short one would be led by it.

Without an order nothing is newer, so all of a history speaks, hundreds of items; lest what speaks faintly in many of them
drowns what speaks clearly in few, the terms are then of (n + 1) and to the power of 1.5.

An item-based neighborhood model (Sarwar et al. 2001) whose pairs are weighted by their distance in people's sequences.
docs/quality.md says how the constants were chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.memory.counting import NEWEST, Counts32, Ints
from service.memory.live import LiveCounts, Row

Doubles = NDArray[np.float64]

READ = 50  # items of a history that are looked at, the newest; older ones would say next to nothing
_EXPONENT = -0.65
_DOUBT = 8.0  # people behind a pair for half its weight, where the history is a single item


@dataclass(frozen=True, slots=True)
class _Manner:
    """How a history is read."""

    read: int  # items of it, the newest
    fading: float  # d: what an item says, beside the next newer one
    smoothing: float  # likes that are added to those of every item
    power: float


_IN_ORDER = _Manner(READ, 0.8, 5.0, 1.0)
_WITHOUT_ORDER = _Manner(NEWEST, 1.0, 1.0, 1.5)


@dataclass(frozen=True, slots=True)
class Taste:
    """A person's history as catalog numbers, oldest first. Without an order all items of it say as much."""

    items: tuple[int, ...]
    liked: tuple[bool, ...]
    ordered: bool = True

    @property
    def likes(self) -> list[int]:
        """The liked items."""
        return [item for item, liked in zip(self.items, self.liked, strict=True) if liked]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one item of the history says (C,) of some items, told by their catalog numbers in order."""

    source: int
    items: Counts32
    amounts: Doubles


def liked_together(live: LiveCounts, taste: Taste) -> Iterator[Evidence]:
    """What each of the newest likes says by what people liked together, the newest first."""
    manner = _IN_ORDER if taste.ordered else _WITHOUT_ORDER
    discount, doubt = _discount(live.likes, manner), _doubt(taste)
    for age, source in enumerate(taste.likes[-manner.read :][::-1]):
        factor = manner.fading**age * discount[source]
        yield _evidence(source, live.together(source), doubt, discount, factor, manner.power)


def liked_next(live: LiveCounts, taste: Taste) -> Iterator[Evidence]:
    """What each of the newest items says by what people liked soon after it, the newest first."""
    if not taste.ordered:
        return
    manner = _IN_ORDER
    discount, met = _discount(live.likes, manner), _discount(live.likes + live.dislikes, manner)
    doubt = _doubt(taste)
    for age, source in enumerate(taste.items[-manner.read :][::-1]):
        factor = manner.fading**age * met[source]
        yield _evidence(source, live.followed(source), doubt, discount, factor, manner.power)


def added(found: Iterable[Evidence], items: int) -> Doubles:
    """The sum of all evidence for each of `items` items, (N,)."""
    total = np.zeros(items)
    for one in found:
        total[one.items] += one.amounts
    return total


def _evidence(source: int, row: Row, doubt: float, discount: Doubles, factor: float, power: float) -> Evidence:
    trusted = row.weights * (row.people / (row.people + doubt))
    amounts = trusted * discount[row.items] * factor
    return Evidence(source, row.items, np.asarray(amounts if power == 1.0 else amounts**power, np.float64))


def _doubt(taste: Taste) -> float:
    return _DOUBT / max(1, len(taste.items))


def _discount(counts: Ints, manner: _Manner) -> Doubles:
    return np.asarray((counts + manner.smoothing) ** _EXPONENT, np.float64)

"""The order of an answer: what the counts, the content and the language model say of each item, weighed by evidence.

The counts know who likes what together and what comes next, and are blind where nobody has rated yet. There speaks what they
say of items with such facts, and the language model, which has read the title. Both fade as likes of the item come in. What
a few likes have in common speaks a little, whatever the counts say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.memory.content import Content, thinness
from service.memory.item_model import ItemModel
from service.memory.live import LiveCounts
from service.memory.retrieval import Evidence, Taste, added, liked_next, liked_together

Doubles = NDArray[np.float64]

_SOLVED = 0.8  # the item model, beside what was liked together
# What is carried over by facts: a regression draws towards the mean, and at 1 new items would hardly ever be seen.
_CONTENT = 1.75
# What several likes have in common, times (n - 1) / n² of n likes: a single one does not tell what of it was liked, and of many
# the counts know better. Anything above makes the order of what people choose next worse.
_ALIKE = 1.0
# Popularity, divided by the square of the history's length and some more: it speaks for whom little else is known.
_POPULAR = 20.0
_POPULAR_FADING = 9.0
# What a standard deviation of the language model's logit weighs for an item that nobody has liked; with one like a quarter of
# it, with three a sixteenth: beside any evidence of counts it does harm.
_MODEL = 0.1


@dataclass(frozen=True, slots=True)
class Reasons:
    """What speaks for every item of a catalog (N,) beside the model; each part is a share of its largest, times its weight."""

    together: Doubles
    followed: Doubles
    solved: Doubles  # by the item model
    popular: Doubles
    content: Doubles
    thinness: Doubles  # 1 for an item that nobody has liked, towards 0 for one that many have

    @property
    def value(self) -> Doubles:
        """(N,): the sum of the parts."""
        return self.together + self.followed + self.solved + self.popular + self.content

    @property
    def personal(self) -> bool:
        """Whether anything is known that depends on the history."""
        return bool(self.together.any() or self.followed.any() or self.solved.any())

    def parts(self, number: int) -> dict[str, float]:
        """The parts of one item's value, by their names."""
        named = {"together": self.together, "next": self.followed, "item_model": self.solved}
        named |= {"popular": self.popular, "content": self.content}
        return {name: float(part[number]) for name, part in named.items()}


def reasons(live: LiveCounts, taste: Taste, item_model: ItemModel | None, content: Content) -> Reasons:
    """What speaks for each item of the catalog. Without an item model the counts alone speak."""
    items = len(live.likes)
    unseen = np.ones(items, np.bool_)
    unseen[list(taste.items)] = False
    together = _scaled(added(liked_together(live, taste), items), unseen)
    followed = _scaled(added(liked_next(live, taste), items), unseen)
    solved = _solved(live, taste, item_model, unseen)
    popular = _POPULAR / (_POPULAR_FADING + len(taste.items) ** 2) * _scaled(content.popularity(live.likes), unseen)
    thin = thinness(live.likes)
    carried = _CONTENT * content.carried(together + followed + solved, live.likes) * thin
    return Reasons(together, followed, solved, popular, carried + _alike(content, taste.likes, items), thin)


def _alike(content: Content, likes: Sequence[int], items: int) -> Doubles:
    if len(likes) < 2:
        return np.zeros(items)
    return _ALIKE * (len(likes) - 1) / len(likes) ** 2 * content.alike(likes)


def _solved(live: LiveCounts, taste: Taste, item_model: ItemModel | None, unseen: NDArray[np.bool_]) -> Doubles:
    if item_model is None:
        return np.zeros(len(live.likes))
    evidence = added(item_model.evidence(taste), len(live.likes))
    # What it leaves out, it speaks against: the less it is about, the less it says.
    return _SOLVED * item_model.share(live) ** 2 * _scaled(evidence, unseen)


def values(found: Reasons, candidates: Sequence[int | None], logits: Doubles) -> Doubles:
    """(C,): the order's value of candidates by their catalog numbers; None for a title that no catalog knows."""
    if not len(logits):
        return logits
    spread = float(logits.std()) or 1.0
    opinion = np.asarray(_MODEL * (logits - logits.mean()) / spread, np.float64)
    known = np.array([number is not None for number in candidates], np.bool_)
    numbers = np.array([number or 0 for number in candidates], np.int64)
    if not known.any():
        return opinion
    value = np.where(known, found.value[numbers], 0.0)
    return np.asarray(value + opinion * np.where(known, found.thinness[numbers] ** 2, 1.0), np.float64)


def bounded(value: Doubles, foreign: Sequence[bool]) -> Doubles:
    """(C,): the values, but of a candidate that no catalog knows none above the lower half of those that one knows.

    Whoever writes a title can word it until the model likes it, so text alone never passes the better half of what is known.
    Those that would have passed keep their order, right behind the middle. Without a known candidate nothing changes.
    """
    unknown = np.asarray(foreign, np.bool_)
    known = np.sort(value[~unknown])
    if not len(known):
        return value
    middle = known[(len(known) - 1) // 2]
    above = np.flatnonzero(unknown & (value >= middle))
    lower = value[value < middle]
    room = middle - (lower.max() if len(lower) else middle - 1.0)
    found = value.copy()
    best_first = above[np.argsort(-value[above], kind="stable")]
    found[best_first] = middle - room * np.arange(1, len(above) + 1) / (len(above) + 1)
    return found


def because(found: Iterable[Evidence], item: int, most: int) -> list[int]:
    """The items of the history that speak most for an item, the strongest first; others are not named."""
    said: dict[int, float] = {}
    for one in found:
        said[one.source] = said.get(one.source, 0.0) + _amount(one, item)
    return [source for source in sorted(said, key=lambda source: -said[source])[:most] if said[source] > 0]


def _amount(one: Evidence, item: int) -> float:
    place = int(np.searchsorted(one.items, item))
    return float(one.amounts[place]) if place < len(one.items) and one.items[place] == item else 0.0


def _scaled(amounts: Doubles, unseen: NDArray[np.bool_]) -> Doubles:
    """The amounts of unseen items, as shares of the largest; 0 for all others."""
    hidden = np.where(unseen, amounts, 0.0)
    largest = hidden.max(initial=0.0)
    return np.asarray(hidden / largest if largest > 0 else hidden, np.float64)

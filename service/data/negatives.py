"""Pure: likes -> samples of items that their person has not met, which training takes for disliked.

What a person's negatives are is a function of their own rows and of the stated catalog: nothing of anybody else enters, not
even through items that only somebody's row names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.data import prompts
from service.records import Item, Sample

_HASH_BYTES = 8
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64's output function
_SHIFTS = (30, 27, 31)


@dataclass(frozen=True, slots=True)
class NegativePool:
    """The items that likes may be set against, in order of their ids, and a keyed hash of each id."""

    items: tuple[Item, ...]
    hashes: NDArray[np.uint64]  # (items,)
    places: dict[str, int]  # item id -> its place among `items`
    seed: int

    @classmethod
    def of(cls, catalog: Iterable[Item], seed: int) -> NegativePool:
        """The stated items of a catalog."""
        items = _stated(catalog)
        hashes = np.array([_keyed(seed, "item", item.item_id) for item in items], np.uint64)
        return cls(items, hashes, {item.item_id: place for place, item in enumerate(items)}, seed)

    def with_negatives(self, samples: Sequence[Sample], met: Collection[str], count: int) -> tuple[Sample, ...]:
        """One user's samples, each like followed by up to `count` negatives: its history, with a target that is not liked.

        Targets are the items of smallest keyed hash of (sample, item), fewer where the user has met almost everything.
        `met` are the ids of all items that the user has an interaction with, beyond the samples, too.
        """
        known = [self.places[item_id] for item_id in met if item_id in self.places]
        count = min(count, len(self.items) - len(known))
        return tuple(
            own for sample in samples for own in (sample, *(self._of(sample, known, count) if sample.liked else ()))
        )

    def _of(self, sample: Sample, known: Sequence[int], count: int) -> Iterable[Sample]:
        if count < 1:
            return
        like = sample.target.item_id
        order = _mixed(self.hashes ^ np.uint64(_keyed(self.seed, "like", sample.user_id, like)))
        unmet = np.ones(len(order), dtype=bool)
        unmet[known] = False
        places = np.flatnonzero(unmet)
        if count < len(places):
            places = places[np.argpartition(order[places], count - 1)[:count]]
        for place in places[np.argsort(order[places], kind="stable")]:
            yield Sample(sample.user_id, sample.history, self.items[place], False, like)


def negative_content(catalog: Iterable[Item], item_type: str) -> list[list[str]]:
    """What of a catalog decides negatives, for digests: the ids of its stated items, and how a question words them."""
    return [[item.item_id, prompts.target_text(item, item_type)] for item in _stated(catalog)]


def _stated(catalog: Iterable[Item]) -> tuple[Item, ...]:
    # Created items go with the last row that names them, and no deletion may move a negative.
    return tuple(sorted((item for item in catalog if not item.created), key=lambda item: item.item_id))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # One hash of each pair would take a catalog's length of them for each like; this takes milliseconds for 100,000 items.
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(multiplier)
    return values ^ (values >> np.uint64(_SHIFTS[-1]))


def _keyed(seed: int, *parts: str) -> int:
    message = json.dumps(["negatives", *parts]).encode()
    return int.from_bytes(hashlib.blake2b(message, key=str(seed).encode(), digest_size=_HASH_BYTES).digest())

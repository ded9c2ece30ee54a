"""Pure: what people did -> the counts of one shard, in integers.

Each person adds to the counts what follows from their own interactions alone, and no more than a bounded amount. Integers add
in any order to the same bytes, so the counts without somebody are those of a clean build without them. Neighborhood
recommenders that forget exactly are known from Schelter et al., "Caboose" (SIGIR 2023); here the counts are kept shard by
shard, so that a mask takes a whole shard out before anything is counted again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.records import Interaction

FORMAT = "lethe-memory-1"
NEWEST = 300  # interactions of a person that count, so that nobody weighs without bound
NEAR = 200  # likes between which two likes of a person make a pair
NEXT = 30  # interactions within which a like comes after an earlier interaction
_UNORDERED = 64  # divided by √likes: what each pair of likes weighs of whom no order is known

Counts32 = NDArray[np.int32]
Ints = NDArray[np.int64]

# What a pair weighs, by how far apart its items stand in the person's sequence; 0 beyond the window.
NEARNESS: Ints = np.array([0, *(max(1, round(16 / math.sqrt(d))) for d in range(1, NEAR + 1))], dtype=np.int64)
SUCCESSION: Ints = np.array([0, *(round(32 / math.sqrt(d)) for d in range(1, NEXT + 1))], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Pairs:
    """M pairs of items: numbers, the number of distinct people behind each, and the sum of what their pairs weigh."""

    first: Counts32  # (M,)
    second: Counts32  # (M,)
    people: Counts32  # (M,)
    weight: Counts32  # (M,)


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """The counts of one shard over its own items, by their ids in order (N).

    `together`: somebody liked both; the first item stands before the second one in `items`.
    `followed`: somebody liked the second item soon after an interaction of any kind with the first one.
    """

    items: tuple[str, ...]
    likes: Counts32  # (N,)
    dislikes: Counts32  # (N,)
    together: Pairs
    followed: Pairs


def contribution_digest(interactions: Sequence[Interaction]) -> str:
    """SHA-256 of all that a person adds to the counts: items and opinions in order of time, but for the times."""
    rows = counted(interactions)
    content = [_is_ordered(rows), [[row.item_id, row.liked] for row in rows]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def counted(interactions: Iterable[Interaction]) -> list[Interaction]:
    """The interactions of one person that count, oldest first."""
    return sorted(interactions, key=lambda row: (row.timestamp, row.item_id))[-NEWEST:]


def count_people(people: Iterable[Sequence[Interaction]]) -> ShardCounts:
    """The counts of some people, given all interactions of each. The order of people and of rows does not matter.

    Raises:
        OverflowError: a count does not fit into 32 bits.
    """
    histories = [counted(interactions) for interactions in people]
    items = tuple(sorted({row.item_id for history in histories for row in history}))
    number = {item_id: n for n, item_id in enumerate(items)}
    sequences = [_Sequence.of(history, number) for history in histories]
    every = np.concatenate([own.items for own in sequences]) if sequences else np.empty(0, np.int64)
    liked = np.concatenate([own.liked for own in sequences]) if sequences else np.empty(0, np.bool_)
    return ShardCounts(
        items,
        fitting(np.bincount(every[liked], minlength=len(items))),
        fitting(np.bincount(every[~liked], minlength=len(items))),
        _summed([own.together(len(items)) for own in sequences], len(items)),
        _summed([own.followed(len(items)) for own in sequences if own.ordered], len(items)),
    )


def add_up(keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    """The distinct keys in order (M,), and the sum of the rows of `values` (len(keys), C) that have each of them (M, C)."""
    if not len(keys):
        return keys, values
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[starts], np.add.reduceat(values[order], starts, axis=0)


def fitting(values: Ints) -> Counts32:
    """These numbers in 32 bits. Raises OverflowError if one does not fit."""
    if values.size and values.max() > np.iinfo(np.int32).max:
        raise OverflowError("a count of people's likes does not fit into 32 bits; make memory shards smaller")
    return values.astype(np.int32)


@dataclass(frozen=True, slots=True)
class _Sequence:
    """What one person did, oldest first: numbers of items, and whether each was liked."""

    items: Ints
    liked: NDArray[np.bool_]
    ordered: bool

    @classmethod
    def of(cls, rows: Sequence[Interaction], number: dict[str, int]) -> _Sequence:
        items = np.array([number[row.item_id] for row in rows], np.int64)
        return cls(items, np.array([row.liked for row in rows], np.bool_), _is_ordered(rows))

    def together(self, count: int) -> tuple[Ints, Ints]:
        """A key for each pair of likes, and what it weighs."""
        likes = self.items[self.liked]
        earlier, later = np.triu_indices(len(likes), 1)
        if self.ordered:
            close = later - earlier <= NEAR
            earlier, later = earlier[close], later[close]
            weights = NEARNESS[later - earlier]
        else:
            weights = np.full(len(earlier), max(1, round(_UNORDERED / math.sqrt(max(1, len(likes))))), np.int64)
        a, b = likes[earlier], likes[later]
        return np.minimum(a, b) * count + np.maximum(a, b), weights

    def followed(self, count: int) -> tuple[Ints, Ints]:
        """A key for each like after an earlier interaction, and what it weighs."""
        steps = range(1, min(NEXT, len(self.items) - 1) + 1)
        keys = [(self.items[:-d] * count + self.items[d:])[self.liked[d:]] for d in steps]
        weights = [np.full(len(own), SUCCESSION[d]) for d, own in zip(steps, keys, strict=True)]
        return (np.concatenate(keys), np.concatenate(weights)) if keys else (np.empty(0, np.int64),) * 2


def _summed(parts: Sequence[tuple[Ints, Ints]], count: int) -> Pairs:
    """Pairs of all parts. A person's pair counts once, so that one part is one of the people behind each of its pairs."""
    keys = np.concatenate([keys for keys, _ in parts]) if parts else np.empty(0, np.int64)
    weights = np.concatenate([weights for _, weights in parts]) if parts else np.empty(0, np.int64)
    found, sums = add_up(keys, np.stack([np.ones_like(weights), weights], axis=1))
    first, second = np.divmod(found, max(1, count))
    return Pairs(*map(fitting, (first, second, sums[:, 0], sums[:, 1])))


def _is_ordered(rows: Sequence[Interaction]) -> bool:
    # Data without times have one time for all, and their order is that of the items' ids.
    return len({row.timestamp for row in rows}) > 1

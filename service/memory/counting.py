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
NEWEST = 500  # interactions of a person that count, so that nobody weighs without bound
FORWARD = 5  # likes after a like that count as what came next

Counts32 = NDArray[np.int32]
Ints = NDArray[np.int64]

# What two likes of one person weigh, by how many likes lie between them: 16 for neighbors, 1 from a distance of 114 on.
NEARNESS: Ints = np.array([0, *(max(1, round(16 / math.sqrt(d))) for d in range(1, NEWEST))], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """The counts of one shard over its own items, by their ids in order; M pairs of items that somebody liked both of.

    A pair's first item stands before its second one in `items`. `people` is the number of distinct people who liked both,
    `nearness` the sum of what their pairs weigh (`NEARNESS`); `forward` and `backward` say how often the second item was among
    the next `FORWARD` likes after the first one, and the other way round.
    """

    items: tuple[str, ...]
    likes: Counts32  # (N,)
    dislikes: Counts32  # (N,)
    first: Counts32  # (M,), numbers of items
    second: Counts32  # (M,)
    people: Counts32  # (M,)
    nearness: Counts32  # (M,)
    forward: Counts32  # (M,)
    backward: Counts32  # (M,)


def contribution_digest(interactions: Sequence[Interaction]) -> str:
    """SHA-256 of all that a person adds to the counts: items and opinions in order of time, but for the times."""
    content = [[row.item_id, row.liked] for row in counted(interactions)]
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
    liked = [np.array([number[row.item_id] for row in own if row.liked], np.int64) for own in histories]
    disliked = [np.array([number[row.item_id] for row in own if not row.liked], np.int64) for own in histories]
    parts = [_pairs_of_person(likes, len(items)) for likes in liked]
    keys, sums = add_up(
        np.concatenate([keys for keys, _ in parts]) if parts else np.empty(0, np.int64),
        np.concatenate([values for _, values in parts]) if parts else np.empty((0, 4), np.int64),
    )
    first, second = np.divmod(keys, max(1, len(items)))
    return ShardCounts(
        items,
        *(_counted(np.bincount(_joined(numbers), minlength=len(items))) for numbers in (liked, disliked)),
        *map(_counted, (first, second)),
        *(_counted(sums[:, column]) for column in range(4)),
    )


def add_up(keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    """The distinct keys in order (M,), and the sum of the rows of `values` (len(keys), C) that have each of them (M, C)."""
    if not len(keys):
        return keys, values
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[starts], np.add.reduceat(values[order], starts, axis=0)


def _pairs_of_person(likes: Ints, items: int) -> tuple[Ints, Ints]:
    """Of one person's likes, in order: a key for each pair, and what it adds: people, nearness, forward, backward."""
    earlier, later = np.triu_indices(len(likes), 1)
    distance = later - earlier
    a, b = likes[earlier], likes[later]
    ascending, next_ = a < b, distance <= FORWARD
    values = np.stack(
        [np.ones_like(distance), NEARNESS[distance], next_ & ascending, next_ & ~ascending], axis=1, dtype=np.int64
    )
    return np.minimum(a, b) * items + np.maximum(a, b), values


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _counted(values: Ints) -> Counts32:
    if len(values) and values.max() > np.iinfo(np.int32).max:
        raise OverflowError("a count of a shard does not fit into 32 bits; make memory shards smaller")
    return values.astype(np.int32)

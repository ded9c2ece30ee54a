"""Counts of shards over one catalog: sums that fit into memory, and differences of sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from service.memory.counting import Counts32, Ints, Pairs, ShardCounts, add_up, fitting

Numbers = NDArray[np.int64]

AT_ONCE = 2**24  # pairs that are sorted at a time, so that a sum needs little more room than what is added


@dataclass(frozen=True, slots=True)
class PairTable:
    """Pairs over a catalog of N items as compressed sparse rows: for each first item its second ones, in order."""

    starts: Ints  # (N + 1,)
    columns: Counts32  # (P,)
    values: Counts32  # (P, 2): people, weight

    def row(self, item: int) -> tuple[Counts32, Ints]:
        """The second items, and (C, 2) what is known of them."""
        own = slice(self.starts[item], self.starts[item + 1])
        return self.columns[own], self.values[own].astype(np.int64)

    def pairs(self) -> Pairs:
        """The table as a list, in order of the first item and then of the second."""
        first = np.repeat(np.arange(len(self.starts) - 1, dtype=np.int32), np.diff(self.starts))
        return Pairs(first, self.columns, self.values[:, 0], self.values[:, 1])

    def holds(self, pairs: Pairs, chosen: NDArray[np.bool_]) -> bool:
        """Whether all chosen pairs are in it."""
        wanted = zip(pairs.first[chosen].tolist(), pairs.second[chosen].tolist(), strict=True)
        return all(second in self.columns[self.starts[first] : self.starts[first + 1]] for first, second in wanted)

    def keys(self) -> Ints:
        """(P,): a number for each pair, in order."""
        return _keys(self.pairs(), len(self.starts) - 1)


@dataclass(frozen=True, slots=True)
class CountTable:
    """Counts over a catalog of N items. Those of a difference may be below 0."""

    likes: Ints  # (N,)
    dislikes: Ints  # (N,)
    together: PairTable  # every pair in both directions
    followed: PairTable

    @classmethod
    def of(
        cls, shards: Sequence[ShardCounts], number: Mapping[str, int], least_people: int = 1, at_once: int = AT_ONCE
    ) -> CountTable:
        """The sum of some shards without pairs of fewer people. Raises OverflowError if a sum does not fit into 32 bits."""
        own = [np.array([number[item_id] for item_id in counts.items], np.int64) for counts in shards]
        likes, dislikes = np.zeros(len(number), np.int64), np.zeros(len(number), np.int64)
        for counts, numbers in zip(shards, own, strict=True):
            likes[numbers] += counts.likes
            dislikes[numbers] += counts.dislikes
        liked = [_renumbered(counts.together, numbers) for counts, numbers in zip(shards, own, strict=True)]
        after = [_renumbered(counts.followed, numbers) for counts, numbers in zip(shards, own, strict=True)]
        once, followed = (_summed(pairs, len(number), least_people, at_once) for pairs in (liked, after))
        return cls(likes, dislikes, _both_ways(once, at_once), followed)

    def minus(self, other: CountTable) -> CountTable:
        """The difference; what is equal in both is not in it."""
        return self._with(other, -1)

    def plus(self, other: CountTable) -> CountTable:
        """The sum; what adds up to nothing is not in it."""
        return self._with(other, 1)

    def may_change_by(self, difference: CountTable) -> bool:
        """Whether this sum and a difference make a sum, though rare pairs were left out: none of those gets more people."""
        kinds = ((self.together, difference.together), (self.followed, difference.followed))
        return all(known.holds(change.pairs(), change.values[:, 0] > 0) for known, change in kinds)

    @property
    def size(self) -> int:
        """How many pairs are in it."""
        return len(self.together.columns) + len(self.followed.columns)

    def _with(self, other: CountTable, sign: int) -> CountTable:
        return CountTable(
            self.likes + sign * other.likes,
            self.dislikes + sign * other.dislikes,
            _combined(self.together, other.together, sign),
            _combined(self.followed, other.followed, sign),
        )


def _combined(one: PairTable, other: PairTable, sign: int) -> PairTable:
    keys = np.concatenate([one.keys(), other.keys()])
    found, sums = add_up(keys, np.concatenate([one.values.astype(np.int64), sign * other.values.astype(np.int64)]))
    left = sums.any(axis=1)
    return _table(found[left], sums[left], len(one.starts) - 1)


def _both_ways(once: PairTable, at_once: int) -> PairTable:
    forth = once.pairs()
    by_second = np.argsort(forth.second, kind="stable")
    back = Pairs(*(column[by_second] for column in (forth.second, forth.first, forth.people, forth.weight)))
    return _summed([forth, back], len(once.starts) - 1, 1, at_once)


def _renumbered(pairs: Pairs, numbers: Numbers) -> Pairs:
    """With catalog numbers, by the first item's."""
    first, second = numbers[pairs.first].astype(np.int32), numbers[pairs.second].astype(np.int32)
    found = Pairs(first, second, pairs.people, pairs.weight)
    # A catalog may be in another order than a shard's items are.
    if np.all(first[1:] >= first[:-1]):
        return found
    order = np.argsort(first, kind="stable")
    return Pairs(*(column[order] for column in (first, second, pairs.people, pairs.weight)))


def _summed(parts: Sequence[Pairs], count: int, least_people: int, at_once: int) -> PairTable:
    """The sum of pairs that are in order of their first item each."""
    keys, values = [np.empty(0, np.int64)], [np.empty((0, 2), np.int32)]
    for block in _blocks(parts, count, at_once):
        own = np.concatenate([_keys(pairs, count) for pairs in block])
        weighed = [np.stack([pairs.people, pairs.weight], axis=1, dtype=np.int64) for pairs in block]
        found, sums = add_up(own, np.concatenate(weighed))
        enough = sums[:, 0] >= least_people
        keys.append(found[enough])
        values.append(fitting(sums[enough]))
    return _table(np.concatenate(keys), np.concatenate(values), count)


def _blocks(parts: Sequence[Pairs], count: int, at_once: int) -> Iterator[list[Pairs]]:
    """The pairs of some first items after those of others, so that not all have to be sorted at a time."""
    if not parts or not count:
        return
    until = np.cumsum(sum(np.bincount(pairs.first, minlength=count) for pairs in parts))
    edges = np.unique([0, *np.searchsorted(until, np.arange(at_once, until[-1], at_once)), count])
    for low, high in pairwise(edges):
        yield [_slice(pairs, *np.searchsorted(pairs.first, [low, high])) for pairs in parts]


def _slice(pairs: Pairs, start: int, end: int) -> Pairs:
    return Pairs(*(column[start:end] for column in (pairs.first, pairs.second, pairs.people, pairs.weight)))


def _keys(pairs: Pairs, count: int) -> Ints:
    return pairs.first.astype(np.int64) * count + pairs.second


def _table(keys: Ints, values: NDArray[np.signedinteger], count: int) -> PairTable:
    rows, columns = np.divmod(keys, max(1, count))
    starts = np.searchsorted(rows, np.arange(count + 1))
    return PairTable(starts, columns.astype(np.int32), values.astype(np.int32))

"""The counts that may be used now: the sum over the shards that no mask forbids, over one catalog.

The sum over all shards is added up once, when a generation is loaded. A mask is subtracted from the rows that a request looks
at, so no deletion has to wait until anything is added up again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.memory.counting import Counts32, Ints, ShardCounts, add_up

_PEOPLE, _NEARNESS, _FOLLOWING = range(3)


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of an item beside others (C,), which are told by their catalog numbers in order."""

    items: Counts32
    people: Ints  # who liked both
    nearness: Ints  # what their pairs weigh
    following: Ints  # how often the other item was among the next likes after this one


@dataclass(frozen=True, slots=True)
class _Table:
    """Counts over a catalog of N items; the pairs as compressed sparse rows, each pair in both directions."""

    likes: Ints  # (N,)
    dislikes: Ints  # (N,)
    starts: Ints  # (N + 1,)
    columns: Counts32  # (P,)
    values: Counts32  # (P, 3)

    def row(self, item: int) -> tuple[Counts32, Ints]:
        own = slice(self.starts[item], self.starts[item + 1])
        return self.columns[own], self.values[own].astype(np.int64)


class Memory:
    """The memories of one generation (digest -> counts) over its catalog."""

    def __init__(self, item_ids: Sequence[str], shards: Mapping[str, ShardCounts]) -> None:
        """Raises:
        OverflowError: a sum does not fit into 32 bits.
        """
        number = {item_id: n for n, item_id in enumerate(item_ids)}
        self._shards = {digest: _table([counts], number) for digest, counts in shards.items()}
        self._total = _table(list(shards.values()), number)

    def without(self, masked: Collection[str] = ()) -> LiveCounts:
        """The sum over all shards but the masked ones."""
        return LiveCounts(self._total, [self._shards[digest] for digest in sorted(masked) if digest in self._shards])

    def allowed(self, masked: Collection[str]) -> bool:
        """Whether any shard may be used."""
        return any(digest not in masked for digest in self._shards)


class LiveCounts:
    """The sum of what may be used."""

    def __init__(self, total: _Table, masked: Sequence[_Table]) -> None:
        self._total, self._masked = total, masked
        self.likes: Ints = total.likes - sum((table.likes for table in masked), np.zeros_like(total.likes))
        self.dislikes: Ints = total.dislikes - sum((table.dislikes for table in masked), np.zeros_like(total.dislikes))

    def row(self, item: int, least_people: int) -> Row:
        """The item of this number beside all others that at least so many people liked both of."""
        columns, values = self._total.row(item)
        for table in self._masked:
            theirs, minus = table.row(item)
            values[np.searchsorted(columns, theirs)] -= minus
        enough = values[:, _PEOPLE] >= max(1, least_people)
        values = values[enough]
        return Row(columns[enough], values[:, _PEOPLE], values[:, _NEARNESS], values[:, _FOLLOWING])


def _table(shards: Sequence[ShardCounts], number: Mapping[str, int]) -> _Table:
    n = len(number)
    likes, dislikes = np.zeros(n, np.int64), np.zeros(n, np.int64)
    keys, values = [np.empty(0, np.int64)], [np.empty((0, 3), np.int64)]
    for counts in shards:
        own = np.array([number[item_id] for item_id in counts.items], np.int64)
        likes[own] += counts.likes
        dislikes[own] += counts.dislikes
        first, second = own[counts.first], own[counts.second]
        keys += [first * n + second, second * n + first]
        both = [counts.people, counts.nearness]
        values += [np.stack([*both, next_], axis=1, dtype=np.int64) for next_ in (counts.forward, counts.backward)]
    found, sums = add_up(np.concatenate(keys), np.concatenate(values))
    rows, columns = np.divmod(found, max(1, n))
    starts = np.searchsorted(rows, np.arange(n + 1))
    return _Table(likes, dislikes, starts, columns.astype(np.int32), _fitting(sums))


def _fitting(sums: Ints) -> NDArray[np.int32]:
    if len(sums) and sums.max() > np.iinfo(np.int32).max:
        raise OverflowError("a sum of the memories' counts does not fit into 32 bits")
    return sums.astype(np.int32)

"""The counts that may be used now: the sum over the shards that no mask forbids, over one catalog.

The sum over all shards is added up once, when a generation is loaded. A mask is subtracted from the rows that a request looks
at, so no deletion has to wait until anything is added up again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.memory.counting import Counts32, Ints, Pairs, ShardCounts, add_up, fitting

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """Pairs of one item with others (C,), which are told by their catalog numbers, in order."""

    items: Counts32
    weights: Ints
    people: Ints  # how many made the pair


@dataclass(frozen=True, slots=True)
class PairTable:
    """Pairs over a catalog of N items as compressed sparse rows: for each first item its second ones."""

    starts: Ints  # (N + 1,)
    columns: Counts32  # (P,)
    values: Counts32  # (P, 2): people, weight

    def row(self, item: int) -> tuple[Counts32, Ints]:
        """The second items, and (C, 2) what is known of them."""
        own = slice(self.starts[item], self.starts[item + 1])
        return self.columns[own], self.values[own].astype(np.int64)


@dataclass(frozen=True, slots=True)
class CountTable:
    """Counts over a catalog of N items."""

    likes: Ints  # (N,)
    dislikes: Ints  # (N,)
    together: PairTable  # every pair in both directions
    followed: PairTable

    @classmethod
    def of(cls, shards: Sequence[ShardCounts], number: Mapping[str, int]) -> CountTable:
        """The sum of some shards. Raises OverflowError if a sum does not fit into 32 bits."""
        own = [np.array([number[item_id] for item_id in counts.items], np.int64) for counts in shards]
        likes, dislikes = np.zeros(len(number), np.int64), np.zeros(len(number), np.int64)
        for counts, numbers in zip(shards, own, strict=True):
            likes[numbers] += counts.likes
            dislikes[numbers] += counts.dislikes
        both = [(counts.together, numbers) for counts, numbers in zip(shards, own, strict=True)]
        after = [(counts.followed, numbers) for counts, numbers in zip(shards, own, strict=True)]
        turned = [(Pairs(p.second, p.first, p.people, p.weight), numbers) for p, numbers in both]
        return cls(likes, dislikes, _pair_table([*both, *turned], len(number)), _pair_table(after, len(number)))


class Memory:
    """The memories of one generation (digest -> counts) over its catalog."""

    def __init__(self, item_ids: Sequence[str], shards: Mapping[str, ShardCounts]) -> None:
        """Raises:
        OverflowError: a sum does not fit into 32 bits.
        """
        number = {item_id: n for n, item_id in enumerate(item_ids)}
        self._shards = {digest: CountTable.of([counts], number) for digest, counts in shards.items()}
        self._total = CountTable.of(list(shards.values()), number)

    def without(self, masked: Collection[str] = ()) -> LiveCounts:
        """The sum over all shards but the masked ones."""
        masked_here = [self._shards[digest] for digest in sorted(masked) if digest in self._shards]
        return LiveCounts(self._total, masked_here, tuple(digest for digest in self._shards if digest not in masked))


class LiveCounts:
    """The sum of what may be used, (N,) likes and dislikes and rows of pairs. `digests` name the memories in it."""

    def __init__(self, total: CountTable, masked: Sequence[CountTable], digests: tuple[str, ...]) -> None:
        self._total, self._masked, self.digests = total, masked, digests
        self.likes: Ints = total.likes - sum((table.likes for table in masked), np.zeros_like(total.likes))
        self.dislikes: Ints = total.dislikes - sum((table.dislikes for table in masked), np.zeros_like(total.dislikes))

    def together(self, item: int, least_people: int) -> Row:
        """The item of this number with all others that at least so many people liked both of."""
        return self._row(lambda table: table.together, item, least_people)

    def followed(self, item: int, least_people: int) -> Row:
        """The item of this number with all that at least so many people liked soon after it."""
        return self._row(lambda table: table.followed, item, least_people)

    def people(self, item: int, least_people: int) -> tuple[Counts32, Ints]:
        """The items that at least so many people liked together with this one, and how many did."""
        columns, values = self._values(lambda table: table.together, item)
        enough = values[:, 0] >= max(1, least_people)
        return columns[enough], values[enough, 0]

    def _row(self, kind: Callable[[CountTable], PairTable], item: int, least_people: int) -> Row:
        columns, values = self._values(kind, item)
        enough = values[:, 0] >= max(1, least_people)
        return Row(columns[enough], values[enough, 1], values[enough, 0])

    def _values(self, kind: Callable[[CountTable], PairTable], item: int) -> tuple[Counts32, Ints]:
        columns, values = kind(self._total).row(item)
        for table in self._masked:
            theirs, minus = kind(table).row(item)
            values[np.searchsorted(columns, theirs)] -= minus
        return columns, values


def _pair_table(parts: Sequence[tuple[Pairs, Numbers]], count: int) -> PairTable:
    """`parts` are pairs and the catalog numbers of their items."""
    keys = [np.empty(0, np.int64), *(numbers[p.first] * count + numbers[p.second] for p, numbers in parts)]
    values = [np.empty((0, 2), np.int64), *(np.stack([p.people, p.weight], axis=1, dtype=np.int64) for p, _ in parts)]
    found, sums = add_up(np.concatenate(keys), np.concatenate(values))
    rows, columns = np.divmod(found, max(1, count))
    return PairTable(np.searchsorted(rows, np.arange(count + 1)), columns.astype(np.int32), fitting(sums))

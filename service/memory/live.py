"""The counts that may be used now: the sum over the shards that no mask forbids, over one catalog.

The sum over all shards is added up once. A mask is subtracted from the rows that a request looks at, and what the next
generation changes is added to them, so no deletion has to wait until anything is added up again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from service.errors import Damaged
from service.memory.counting import Counts32, Ints, ShardCounts
from service.memory.table import CountTable, PairTable

_MOST_CHANGED = 1 / 8  # of the pairs of a sum, or everything is added up anew


@dataclass(frozen=True, slots=True)
class Row:
    """Pairs of one item with others (C,), which are told by their catalog numbers, in order."""

    items: Counts32
    weights: Ints
    people: Ints  # how many made the pair


@dataclass(frozen=True, slots=True)
class Source:
    """Where the memories of a generation come from. `load` raises Damaged where there is none."""

    digests: tuple[str, ...]
    load: Callable[[str], ShardCounts]
    least_people: int  # behind a pair, or it counts for nothing


class Memory:
    """The memories of one generation over its catalog.

    Pairs of too few people in the sum over all shards can never count, as a mask makes them fewer still. They
    are not kept, which is most pairs of a large catalog. Shards are read again when they are masked.
    """

    def __init__(
        self, source: Source, item_ids: tuple[str, ...], total: CountTable, changed: CountTable | None = None
    ) -> None:
        """`changed` is what generations since the sum was added up have changed. `Memory.of` adds up."""
        self._source, self._item_ids, self._total, self._changed = source, item_ids, total, changed
        self._number = {item_id: n for n, item_id in enumerate(item_ids)}
        self._read: dict[str, CountTable] = {}  # masked shards
        self._live: tuple[frozenset[str], LiveCounts] | None = None  # of the last mask, as most requests come under one

    @classmethod
    def of(cls, source: Source, item_ids: Iterable[str]) -> Self:
        """Add up all shards.

        Raises:
            Damaged: a memory cannot be loaded.
            OverflowError: a sum does not fit into 32 bits.
        """
        ids = tuple(item_ids)
        number = {item_id: n for n, item_id in enumerate(ids)}
        shards = [source.load(digest) for digest in source.digests]
        return cls(source, ids, CountTable.of(shards, number, source.least_people))

    def without(self, masked: Collection[str] = ()) -> LiveCounts:
        """The sum over all shards but the masked ones. Raises Damaged if one that is masked cannot be loaded."""
        known, asked = self._live, frozenset(masked)
        if known is not None and known[0] == asked:
            return known[1]
        here = [digest for digest in self._source.digests if digest in asked]
        self._read = {digest: self._table(digest) for digest in here}
        digests = tuple(digest for digest in self._source.digests if digest not in asked)
        changes = [(table, -1) for table in self._read.values()]
        if self._changed is not None:
            changes.append((self._changed, 1))
        live = LiveCounts(self._total, changes, digests, self._source.least_people)
        self._live = asked, live
        return live

    def renewed(self, source: Source, item_ids: Iterable[str]) -> Memory:
        """The memory of another generation, from this one's sum where that comes to the same. Raises as `of` does."""
        ids = tuple(item_ids)
        changed = self._change_to(source) if (ids, source.least_people) == self._made_for else None
        if changed is None:
            return Memory.of(source, ids)
        return Memory(source, ids, self._total, changed)

    @property
    def _made_for(self) -> tuple[tuple[str, ...], int]:
        return self._item_ids, self._source.least_people

    def _change_to(self, source: Source) -> CountTable | None:
        """What another generation's sum has more than the one that was added up; None where that cannot be told, or is much."""
        come = [source.load(digest) for digest in source.digests if digest not in self._source.digests]
        changed = CountTable.of(come, self._number)
        try:
            for digest in self._source.digests:
                changed = changed if digest in source.digests else changed.minus(self._table(digest))
        except Damaged:  # it has been erased meanwhile
            return None
        if self._changed is not None:
            changed = changed.plus(self._changed)
        little = changed.size <= self._total.size * _MOST_CHANGED
        return changed if little and self._total.may_change_by(changed) else None

    def _table(self, digest: str) -> CountTable:
        known = self._read.get(digest)
        return known if known is not None else CountTable.of([self._source.load(digest)], self._number)


class LiveCounts:
    """The sum of what may be used, (N,) likes and dislikes and rows of pairs. `digests` name the memories in it."""

    def __init__(
        self, total: CountTable, changes: Sequence[tuple[CountTable, int]], digests: tuple[str, ...], least_people: int
    ) -> None:
        """`changes` are added to the total with their signs."""
        self.digests, self._total, self._changes = digests, total, changes
        self._least = max(1, least_people)
        self.likes: Ints = total.likes + sum((sign * t.likes for t, sign in changes), np.zeros_like(total.likes))
        disliked = (sign * table.dislikes for table, sign in changes)
        self.dislikes: Ints = total.dislikes + sum(disliked, np.zeros_like(total.dislikes))

    @property
    def pairs(self) -> int:
        """How many pairs the total keeps."""
        return self._total.size

    def together(self, item: int) -> Row:
        """The item of this number with all others that enough people liked both of."""
        return self._row(lambda table: table.together, item)

    def followed(self, item: int) -> Row:
        """The item of this number with all that enough people liked soon after it."""
        return self._row(lambda table: table.followed, item)

    def _row(self, kind: Callable[[CountTable], PairTable], item: int) -> Row:
        columns, values = kind(self._total).row(item)
        for table, sign in self._changes:
            theirs, amounts = kind(table).row(item)
            places = np.searchsorted(columns, theirs)
            kept = np.flatnonzero(places < len(columns))
            kept = kept[columns[places[kept]] == theirs[kept]]  # the others are too rare to count
            values[places[kept]] += sign * amounts[kept]
        enough = values[:, 0] >= self._least
        return Row(columns[enough], values[enough, 1], values[enough, 0])

"""Many interactions in columns: a list of records would take ten times the memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from service.errors import ImportRefused
from service.records import Interaction, KeyRefused, key_of

_TIMESTAMP_LIMIT = 2**63


class Interactions(Sequence[Interaction]):
    """Interactions in the order in which they were added: 25 bytes each, and every id once.

    Rows are made as they are asked for.
    """

    def __init__(self) -> None:
        self._users = _Numbered()
        self._items = _Numbered()
        self._user, self._item = array("I"), array("I")
        self._time, self._rating, self._liked = array("q"), array("d"), array("b")

    @classmethod
    def of(cls, rows: Iterable[Interaction]) -> Self:
        """These rows. Raises ImportRefused for a timestamp that no database stores, and for what is no id."""
        if isinstance(rows, cls):
            return rows
        made = cls()
        for row in rows:
            made.append(row)
        return made

    def append(self, row: Interaction) -> None:
        """Raises ImportRefused for a timestamp that no database stores, and for what is no id."""
        if not -_TIMESTAMP_LIMIT <= row.timestamp < _TIMESTAMP_LIMIT:
            raise ImportRefused("a timestamp is out of range; expected seconds since the epoch")
        self._time.append(row.timestamp)
        self._user.append(self._users.number(row.user_id))
        self._item.append(self._items.number(row.item_id))
        self._rating.append(math.nan if row.rating is None else row.rating)
        self._liked.append(row.liked)

    @property
    def user_ids(self) -> list[str]:
        """Everybody, once."""
        return self._users.names

    @property
    def item_ids(self) -> list[str]:
        """Every item that a row names, once."""
        return self._items.names

    def newest(self) -> Newest:
        """One row a pair of user and item: the newest; of equal times the larger rating (any before none), then liked."""
        user, item = np.asarray(self._user, np.uint32), np.asarray(self._item, np.uint32)
        rating, liked = np.asarray(self._rating, np.float64), np.asarray(self._liked, np.int8)
        stated = np.where(np.isnan(rating), -np.inf, rating)
        # In the order of their ids, as a database keeps them: rows that come so are appended and not inserted.
        by_id = self._items.ranks()[item], self._users.ranks()[user]
        order = np.lexsort((liked, stated, np.asarray(self._time, np.int64), *by_id))
        last = np.ones(len(order), np.bool_)
        last[:-1] = (user[order][1:] != user[order][:-1]) | (item[order][1:] != item[order][:-1])
        return Newest(self, order[last])

    def __len__(self) -> int:
        return len(self._time)

    @overload
    def __getitem__(self, at: int) -> Interaction: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Interaction]: ...

    def __getitem__(self, at: int | slice) -> Interaction | Sequence[Interaction]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        rating = self._rating[at]
        return Interaction(
            self._users.names[self._user[at]],
            self._items.names[self._item[at]],
            bool(self._liked[at]),
            self._time[at],
            None if math.isnan(rating) else rating,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return f"<{len(self)} interactions>"  # never their content


class Newest:
    """One row of each pair, grouped by user."""

    def __init__(self, rows: Interactions, chosen: NDArray[np.int64]) -> None:
        self._rows, self._chosen = rows, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Interaction]:
        return (self._rows[number] for number in self._chosen.tolist())

    def by_users(self, at_once: int) -> Iterator[list[Interaction]]:
        """The rows of whole users, about `at_once` of them at a time."""
        gathered: list[Interaction] = []
        for row in self:
            if len(gathered) >= at_once and gathered[-1].user_id != row.user_id:
                yield gathered
                gathered = []
            gathered.append(row)
        if gathered:
            yield gathered


class _Numbered:
    """Keys, numbered as they come, under every text that they were given as."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def ranks(self) -> NDArray[np.int64]:
        """Number -> place among all names in their order."""
        ranks = np.empty(len(self.names), np.int64)
        ranks[sorted(range(len(self.names)), key=self.names.__getitem__)] = np.arange(len(self.names))
        return ranks

    def number(self, name: str) -> int:
        found = self._numbers.get(name)
        return self._add(name) if found is None else found

    def _add(self, name: str) -> int:
        try:
            key = key_of(name)
        except KeyRefused as error:
            raise ImportRefused(f"an id {error}") from None
        if key not in self._numbers:
            self._numbers[key] = len(self.names)
            self.names.append(key)
        self._numbers[name] = self._numbers[key]
        return self._numbers[key]


def _same(one: Any, other: Any) -> bool:
    return bool(one == other)

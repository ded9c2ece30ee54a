"""What is held out of a data set, so that a ranking can be measured: deterministic cuts, the same on every machine.

Relevant is what a person liked of their held-out rows. Everything is decided by times and ids, or by a keyed hash where a data
set knows no times; the order of a file's lines never matters.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from adapters_store import digest_of
from service.errors import InvalidSetting
from service.records import Interaction, Item

LAST_TENTH, LEAVE_ONE_OUT, TIME_CUT = "last-10%", "leave-one-out", "time-cut"
PROTOCOLS = (LAST_TENTH, LEAVE_ONE_OUT, TIME_CUT)

MOST_HELD_OUT = 10  # rows of a person; of a time cut: likes
LEAST_BEFORE_CUT = 5  # rows of a person before the time cut, or they are not tested
LEAST_UNORDERED = 10  # rows of a person without times, or they are not tested
_CUT_AT = 0.9  # share of all rows
_A_FIFTH = 5
_SEED = 0

Rows = tuple[Interaction, ...]


@dataclass(frozen=True, slots=True)
class Ratings:
    """A data set as it was read: of several rows with one person and item the last one counts."""

    dataset: str
    item_type: str
    items: tuple[Item, ...]
    rows: Rows

    @classmethod
    def of(cls, dataset: str, item_type: str, items: Iterable[Item], rows: Iterable[Interaction]) -> Ratings:
        """Distinct items and distinct pairs of person and item, in the order of the files."""
        distinct = {(row.user_id, row.item_id): row for row in rows}
        return cls(dataset, item_type, tuple({item.item_id: item for item in items}.values()), tuple(distinct.values()))

    @property
    def has_times(self) -> bool:
        """Whether any two rows came at different times."""
        return len({row.timestamp for row in self.rows}) > 1

    def likes_only(self) -> Ratings:
        """The likes alone, as a data set knows them that has no ratings."""
        return replace(self, rows=tuple(row for row in self.rows if row.liked))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A catalog, the rows that may be learned from, and what each tested person (by id) was found to like afterwards."""

    dataset: str
    protocol: str
    item_type: str
    items: tuple[Item, ...]
    train: Rows
    test: Mapping[str, tuple[str, ...]]  # relevant item ids, in order of time where there are times
    has_times: bool

    @property
    def people(self) -> tuple[str, ...]:
        """The tested people, in the order in which all figures of a ranking stand."""
        return tuple(sorted(self.test))

    @property
    def digest(self) -> str:
        """SHA-256 over all that a figure can depend on, in the order in which it is used."""
        rows = [[row.user_id, row.item_id, row.liked, row.timestamp] for row in self.train]
        items = [[item.item_id, item.title, item.year, list(item.genres), item.author] for item in self.items]
        return digest_of(
            [self.protocol, self.item_type, items, rows, sorted(map(list, self.test.items())), self.has_times]
        )

    def for_tuning(self) -> HeldOut:
        """The training rows, cut again by the protocol: settings are chosen on this, where no test row is."""
        return cut(Ratings(self.dataset, self.item_type, self.items, self.train), self.protocol)

    def drawn(self, people: int) -> HeldOut:
        """With so many of the tested people, of smallest keyed hash; everybody's training rows stay."""
        kept = sorted(self.test, key=lambda user: keyed_hash("tested", user))[:people]
        return replace(self, test={user: self.test[user] for user in sorted(kept)})

    def with_short_histories(self, rows: int) -> HeldOut:
        """With a fifth of the tested people alone, of whom only the newest `rows` training rows are kept."""
        short = {user for user in self.test if _number(keyed_hash("short", user)) % _A_FIFTH == 0}
        own = {user: in_order(history)[-rows:] for user, history in by_person(self.train).items() if user in short}
        train = [row for row in self.train if row.user_id not in short]
        train += [row for user in sorted(own) for row in own[user]] if rows else []
        return replace(self, train=tuple(train), test={user: self.test[user] for user in sorted(short)})


def cut(ratings: Ratings, protocol: str) -> HeldOut:
    """Hold out of a data set what the protocol says.

    * `last-10%`: of each person the last tenth of their rows, at least 1 and at most 10. Without times: a tenth drawn by
      keyed hash, of people with at least 10 rows.
    * `leave-one-out`: of each person the last like, and whatever came after it. Without times: one like drawn by keyed hash.
    * `time-cut`: whatever came after the moment before which nine tenths of all rows lie, of people with at least 5 rows before
      it; their first 10 likes are relevant. The strictest: nothing that is learned from came after anything that is asked for.

    Raises:
        InvalidSetting: an unknown protocol, a time cut of data without times, or nothing relevant is held out.
    """
    if protocol not in PROTOCOLS:
        raise InvalidSetting(f"no protocol is named {protocol!r}; there are {', '.join(PROTOCOLS)}")
    if protocol == TIME_CUT and not ratings.has_times:
        raise InvalidSetting(f"{ratings.dataset} has no times, so it cannot be cut at one; take {LAST_TENTH}")
    part = _divider(ratings, protocol)
    train: list[Interaction] = []
    test: dict[str, tuple[str, ...]] = {}
    for user, rows in by_person(ratings.rows).items():
        kept, relevant = part(in_order(rows))
        train += kept
        if relevant:
            test[user] = tuple(row.item_id for row in relevant)
    if not test:
        raise InvalidSetting(f"{protocol} of {ratings.dataset} holds out nothing that anybody liked")
    return HeldOut(ratings.dataset, protocol, ratings.item_type, ratings.items, tuple(train), test, ratings.has_times)


def by_person(rows: Iterable[Interaction]) -> dict[str, list[Interaction]]:
    """Each person's rows, by user id, people in order of first appearance."""
    found: dict[str, list[Interaction]] = defaultdict(list)
    for row in rows:
        found[row.user_id].append(row)
    return dict(found)


def in_order(rows: Iterable[Interaction]) -> list[Interaction]:
    """Oldest first; rows of one moment by item id."""
    return sorted(rows, key=lambda row: (row.timestamp, row.item_id))


def keyed_hash(purpose: str, *parts: str) -> bytes:
    """What stands in for chance: 16 bytes that are the same on every machine and in every order of asking."""
    return hashlib.blake2b(json.dumps([purpose, *parts]).encode(), key=str(_SEED).encode(), digest_size=16).digest()


def shuffled(rows: Iterable[Interaction]) -> list[Interaction]:
    """A person's rows in an order that says nothing about them."""
    return sorted(rows, key=lambda row: keyed_hash("held out", row.user_id, row.item_id))


Divider = Callable[[Sequence[Interaction]], tuple[Sequence[Interaction], Sequence[Interaction]]]


def _divider(ratings: Ratings, protocol: str) -> Divider:
    """Tells a person's rows, oldest first, apart: those to learn from, and the relevant ones of the others."""
    if protocol == TIME_CUT:
        times = sorted(row.timestamp for row in ratings.rows)
        moment = times[int(len(times) * _CUT_AT)]
        return lambda rows: _cut_at(rows, moment)
    if protocol == LEAVE_ONE_OUT:
        return _without_last_like if ratings.has_times else _without_one_like
    return _without_last_tenth if ratings.has_times else _without_any_tenth


def _cut_at(rows: Sequence[Interaction], moment: int) -> tuple[list[Interaction], list[Interaction]]:
    kept = [row for row in rows if row.timestamp < moment]
    after = [row for row in rows if row.timestamp >= moment and row.liked]
    return kept, after[:MOST_HELD_OUT] if len(kept) >= LEAST_BEFORE_CUT else []


def _without_last_tenth(rows: Sequence[Interaction]) -> tuple[Sequence[Interaction], list[Interaction]]:
    held = min(MOST_HELD_OUT, max(1, len(rows) // 10))
    return rows[:-held], [row for row in rows[-held:] if row.liked]


def _without_any_tenth(rows: Sequence[Interaction]) -> tuple[Sequence[Interaction], list[Interaction]]:
    if len(rows) < LEAST_UNORDERED:
        return rows, []
    kept, relevant = _without_last_tenth(shuffled(rows))
    return in_order(kept), relevant


def _without_last_like(rows: Sequence[Interaction]) -> tuple[Sequence[Interaction], Sequence[Interaction]]:
    last = max((place for place, row in enumerate(rows) if row.liked), default=0)
    return (rows[:last], rows[last : last + 1]) if last else (rows, [])


def _without_one_like(rows: Sequence[Interaction]) -> tuple[Sequence[Interaction], list[Interaction]]:
    likes = [row for row in shuffled(rows) if row.liked]
    return ([row for row in rows if row != likes[0]], likes[:1]) if likes and len(rows) > 1 else (rows, [])


def _number(key: bytes) -> int:
    return int.from_bytes(key)

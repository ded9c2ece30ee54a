"""Taking in a catalog and interactions, past the tombstones of those who asked to be forgotten.

Of two rows of one user and item the newest counts, whichever came first: within an import, and between an import and what is
held. So the ledger is the same whatever the order of lines and files. Once a full build has begun, what comes in lies beyond
the horizon (`horizon`): it is held at once, and counts from the next full build on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import sqlalchemy as sa

from service.data.interactions import Interactions, Newest
from service.errors import ImportRefused
from service.ledger import horizon, tables, tombstones
from service.ledger.catalog import items_by_id, row_of
from service.ledger.hashes import KeyedHashes
from service.ledger.placements import mark_changed, mark_readers_changed
from service.ledger.restraints import restricted_among
from service.ledger.rows import COLUMNS, TABLES
from service.ledger.state import raise_revision, read_state, set_state
from service.ledger.statements import (
    chunks,
    count,
    is_storable,
    upsert,
)
from service.records import SOURCE_PATTERN, Interaction, Item, KeyRefused, key_of

AT_ONCE = 20_000  # interactions

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ImportCounts:
    """What an import found (distinct, in the given data) and what it did."""

    items: int
    interactions: int
    users: int
    new_items: int
    new_interactions: int
    changed_interactions: int
    tombstoned: int  # interactions skipped, because their user had asked to be forgotten
    folded: int = 0  # given rows that a newer given one of the same user and item has outlived
    outdated: int = 0  # interactions left as they are held, because what is held is newer than what was given
    created_items: int = 0  # of the new ones: those that rows named and no catalog stated
    restricted: int = 0  # interactions skipped, because their user's data may not be used


@dataclass(frozen=True, slots=True)
class Given:
    """Data that a database can store, one row per key: of several items with one id the last, of interactions the newest."""

    items: dict[str, Item]
    interactions: Newest
    users: int
    folded: int

    @classmethod
    def of(cls, items: Iterable[Item], interactions: Iterable[Interaction]) -> Self:
        by_id = {item.item_id: item for item in map(_keyed, items)}
        rows = Interactions.of(interactions)
        texts = (text for item in by_id.values() for text in (item.title, item.author or "", *item.genres))
        if not all(map(is_storable, texts)):
            raise ImportRefused(
                "a title, author or genre holds a character that cannot be stored (NUL or a lone surrogate)"
            )
        newest = rows.newest()
        return cls(by_id, newest, len(rows.user_ids), len(rows) - len(newest))


@dataclass(slots=True)
class Arrivals:
    """Takes interactions into an open transaction, whole users at a time, and counts."""

    connection: sa.Connection
    hashes: KeyedHashes
    allow_returning: bool
    create_items: bool
    now: float  # seconds since the epoch: some tombstones end
    source: str | None = None  # of all rows
    new: int = 0
    changed: int = 0
    outdated: int = 0
    tombstoned: int = 0
    restricted: int = 0
    created: int = 0
    returned: int = 0
    unknown: set[str] = field(default_factory=set)
    _items: set[str] = field(default_factory=set)  # known to be held
    _beyond: bool = field(init=False)  # the horizon

    def __post_init__(self) -> None:
        self._beyond = horizon.is_set(self.connection)

    def take(self, rows: Sequence[Interaction]) -> None:
        """All that is given of some users."""
        wanted = self._past_tombstones(rows)
        self._hold_items({row.item_id for row in wanted})
        if self.unknown:
            return  # it will be refused, with the number of all of them
        users = {row.user_id for row in wanted}
        known = self._known(users)
        if not known:  # as a rule, and there may be millions
            self._hold(wanted, users)
            self.new += len(wanted)
            return
        newer = [row for row in wanted if (held := known.get(pair_of(row))) is None or age_of(row) > age_of(held)]
        # A rating alone changes nothing that is built.
        differing = [row for row in newer if known.get(pair_of(row)) != row]
        self._hold(newer, {row.user_id for row in differing})
        new = sum(pair_of(row) not in known for row in differing)
        self.new += new
        self.changed += len(differing) - new
        self.outdated += sum(pair_of(row) in known and age_of(row) < age_of(known[pair_of(row)]) for row in wanted)

    def _hold(self, rows: Sequence[Interaction], changed: set[str]) -> None:
        held = [{**interaction_row(row), "source": self.source} for row in rows]
        upsert(self.connection, tables.arrivals if self._beyond else tables.interactions, held)
        if not self._beyond:
            mark_changed(self.connection, changed)

    def _past_tombstones(self, rows: Sequence[Interaction]) -> list[Interaction]:
        subjects = {user_id: self.hashes.subject(user_id) for user_id in {row.user_id for row in rows}}
        if restricted := restricted_among(self.connection, subjects, self.hashes):
            given = len(rows)
            rows = [row for row in rows if row.user_id not in restricted]
            self.restricted += given - len(rows)
        covered = tombstones.over(self.connection, rows, subjects, self.hashes, self.now)
        if self.allow_returning:
            returning = {tombstone for over in covered.values() for tombstone in over}
            tombstones.remove(self.connection, returning)
            self.returned += len(returning)
            return list(rows)
        self.tombstoned += len(covered)
        return [row for row in rows if pair_of(row) not in covered]

    def _hold_items(self, ids: set[str]) -> None:
        asked = ids - self._items
        missing = asked - items_by_id(self.connection, asked).keys()
        if missing and not self.create_items:
            self.unknown |= missing
            return
        created = [row_of(Item(item_id, item_id, created=True)) for item_id in sorted(missing)]
        horizon.note_former(self.connection, missing)
        upsert(self.connection, tables.items, created)
        self.created += len(created)
        self._items |= asked

    def _known(self, users: set[str]) -> dict[Pair, Interaction]:
        known: dict[Pair, Interaction] = {}
        for table in TABLES:  # of two rows of a pair the one beyond the horizon is the newer
            c = table.c
            for chunk in chunks(users):
                theirs = sa.select(*(c[name] for name in COLUMNS)).where(c.user_id.in_(chunk))
                for row in self.connection.execute(theirs):
                    known[row.user_id, row.item_id] = Interaction(*row)
        return known


def check_source(source: str | None) -> None:
    """Raises ImportRefused for what is no label of a source."""
    if source is not None and re.fullmatch(SOURCE_PATTERN, source) is None:
        raise ImportRefused(
            "a source is a label of up to 64 letters, digits, dots, colons, dashes and underscores, such as a file's name"
        )


def take(
    connection: sa.Connection,
    given: Given,
    item_type: str | None,
    arrivals: Arrivals,
    advance: Callable[[int], None] = lambda _: None,
) -> ImportCounts:
    """Take in what is new or newer. The revision is raised only when something is. `advance` is told of rows taken in."""
    named = _take_item_type(connection, item_type)
    tombstones.remove_expired(connection, arrivals.now)
    new_items, changed_items = _take_items(connection, given.items)
    for rows in given.interactions.by_users(AT_ONCE):
        arrivals.take(rows)
        advance(len(rows))
    if arrivals.unknown:
        raise ImportRefused(
            f"{len(arrivals.unknown)} item ids of the interactions are neither among the given items nor in the ledger; "
            "import their items first or along with them, or have them made (--create-items)"
        )
    new_items += arrivals.created
    if arrivals.new or arrivals.changed:
        horizon.note_arrival(connection)
    if new_items or changed_items:
        set_state(connection, catalog=tables.state.c.catalog + 1, availability=tables.state.c.availability + 1)
    if named or arrivals.returned or new_items or changed_items or arrivals.new or arrivals.changed:
        raise_revision(connection)
    return ImportCounts(
        items=len(given.items),
        interactions=len(given.interactions),
        users=given.users,
        new_items=new_items,
        new_interactions=arrivals.new,
        changed_interactions=arrivals.changed,
        tombstoned=arrivals.tombstoned,
        folded=given.folded,
        outdated=arrivals.outdated,
        created_items=arrivals.created,
        restricted=arrivals.restricted,
    )


def _take_item_type(connection: sa.Connection, item_type: str | None) -> bool:
    known = read_state(connection).item_type
    if item_type is None or item_type == known:
        return False
    if known is not None and count(connection, tables.items):
        raise ImportRefused(
            f"this ledger's items are of the type {known!r}, not {item_type!r}; use a ledger of its own"
        )
    set_state(connection, item_type=item_type)
    return True


def _take_items(connection: sa.Connection, given: Mapping[str, Item]) -> tuple[int, int]:
    """How many were new, and how many had changed."""
    known = items_by_id(connection, given)
    differing = [item for item in given.values() if known.get(item.item_id) != item]
    horizon.note_former(connection, [item.item_id for item in differing])
    upsert(connection, tables.items, [row_of(item) for item in differing])
    if not horizon.is_set(connection):
        mark_readers_changed(connection, known.keys() & {item.item_id for item in differing})
    new = sum(item.item_id not in known for item in differing)
    return new, len(differing) - new


def _keyed(item: Item) -> Item:
    try:
        key = key_of(item.item_id)
    except KeyRefused as error:
        raise ImportRefused(f"an id {error}") from None
    return item if key == item.item_id else replace(item, item_id=key)


def pair_of(row: Interaction) -> Pair:
    """User and item."""
    return row.user_id, row.item_id


def age_of(row: Interaction) -> tuple[int, float, bool]:
    """What sorts rows of one pair: by time, then rating (any before none), then liked."""
    return row.timestamp, -math.inf if row.rating is None else row.rating, row.liked


def interaction_row(given: Interaction) -> dict[str, Any]:
    """The columns of a row, by their names."""
    # By hand: `asdict` copies every value, and there may be millions.
    return {
        "user_id": given.user_id,
        "item_id": given.item_id,
        "liked": given.liked,
        "timestamp": given.timestamp,
        "rating": given.rating,
        "source": given.source,
    }

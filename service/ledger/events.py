"""Events as they stream in: single rows of many people, all in one transaction, each with an outcome of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import sqlalchemy as sa

from service.errors import InvalidInput
from service.ledger import horizon, tables, tombstones
from service.ledger.catalog import known_ids
from service.ledger.hashes import KeyedHashes
from service.ledger.importing import Pair, age_of, interaction_row, pair_of
from service.ledger.placements import mark_changed
from service.ledger.restraints import restricted_among
from service.ledger.rows import COLUMNS, TABLES
from service.ledger.state import raise_revision
from service.ledger.statements import insert_new, is_storable, keyed, pairs_among, upsert
from service.records import Interaction

REMEMBERED_SECONDS = 30 * 86_400.0  # that the ids of events are known: for longer nobody sends one again


class EventOutcome(StrEnum):
    """What became of one event."""

    NEW = "new"
    CHANGED = "changed"  # it is newer than what was held of this user and item, and says something else
    UNCHANGED = "unchanged"  # it says what is held
    OUTDATED = "outdated"  # what is held, or another event of the batch, is newer
    DUPLICATE = "duplicate"  # an event with this id was taken before
    FORGOTTEN = "forgotten"  # its user asked for deletion
    RESTRICTED = "restricted"  # its user's data may not be used, so nothing of them is taken
    UNKNOWN_ITEM = "unknown_item"


@dataclass(frozen=True, slots=True)
class Event:
    """A row, and an id by which its sender knows it."""

    row: Interaction
    event_id: str | None = None


@dataclass(slots=True)
class EventTaker:
    """Takes batches into an open transaction."""

    connection: sa.Connection
    hashes: KeyedHashes
    now: float  # seconds since the epoch
    allow_returning: bool = False
    _subjects: dict[str, str] = field(default_factory=dict)  # of users, by their ids

    def take(self, events: Sequence[Event]) -> list[EventOutcome]:
        """One outcome an event, in their order. Raises InvalidInput for what is no id."""
        given = [_keyed(event) for event in events]
        self._subjects = {user: self.hashes.subject(user) for user in {event.row.user_id for event in given}}
        hashed = [self._hash(event) for event in given]
        outcomes = dict(self._known_before(given, hashed))
        rows = {at: event.row for at, event in enumerate(given) if at not in outcomes}
        outcomes |= self._refused(rows)
        newest = _newest({at: row for at, row in rows.items() if at not in outcomes})
        outcomes |= dict.fromkeys(rows.keys() - outcomes.keys() - set(newest.values()), EventOutcome.OUTDATED)
        outcomes |= self._held({at: rows[at] for at in newest.values()})
        self._note(given, hashed, outcomes)
        return [outcomes[at] for at in range(len(given))]

    def _hash(self, event: Event) -> str | None:
        if event.event_id is None:
            return None
        if not is_storable(event.event_id):
            raise InvalidInput("an event_id holds characters that are not text")
        return self.hashes.of("event", self._subjects[event.row.user_id], event.event_id)

    def _known_before(self, events: Sequence[Event], hashed: Sequence[str | None]) -> dict[int, EventOutcome]:
        known: set[str] = set()
        c = tables.events.c
        wanted = {(event.row.user_id, its) for event, its in zip(events, hashed, strict=True) if its is not None}
        if wanted:
            taken = pairs_among(self.connection, c.user_id, c.event_hash, wanted)
            known.update(self.connection.scalars(sa.select(c.event_hash).where(taken)))
        found: dict[int, EventOutcome] = {}
        for at, its in enumerate(hashed):
            if its is not None and its in known:
                found[at] = EventOutcome.DUPLICATE
            elif its is not None:
                known.add(its)
        return found

    def _refused(self, rows: Mapping[int, Interaction]) -> dict[int, EventOutcome]:
        subjects = {user: self._subjects[user] for user in {row.user_id for row in rows.values()}}
        restricted = restricted_among(self.connection, subjects, self.hashes)
        refused = {at: EventOutcome.RESTRICTED for at, row in rows.items() if row.user_id in restricted}
        rows = {at: row for at, row in rows.items() if at not in refused}
        buried = tombstones.over(self.connection, rows.values(), subjects, self.hashes, self.now)
        if self.allow_returning and buried:
            tombstones.remove(self.connection, {stone for stones in buried.values() for stone in stones})
            buried = {}
        known = known_ids(self.connection, {row.item_id for row in rows.values()})
        refused |= {at: EventOutcome.UNKNOWN_ITEM for at, row in rows.items() if row.item_id not in known}
        return refused | {at: EventOutcome.FORGOTTEN for at, row in rows.items() if pair_of(row) in buried}

    def _held(self, rows: Mapping[int, Interaction]) -> dict[int, EventOutcome]:
        """Hold those of these rows, one a pair, that are newer than what is held."""
        known = self._known(rows.values())
        outcomes = {at: _outcome(row, known.get(pair_of(row))) for at, row in rows.items()}
        newer = [row for at, row in rows.items() if outcomes[at] in (EventOutcome.NEW, EventOutcome.CHANGED)]
        if not newer:
            return outcomes
        beyond = horizon.is_set(self.connection)
        upsert(self.connection, tables.arrivals if beyond else tables.interactions, list(map(interaction_row, newer)))
        horizon.note_arrival(self.connection)
        if not beyond:
            mark_changed(self.connection, {row.user_id for row in newer})
            raise_revision(self.connection)
        return outcomes

    def _known(self, rows: Iterable[Interaction]) -> dict[Pair, Interaction]:
        known: dict[Pair, Interaction] = {}
        pairs = [pair_of(row) for row in rows]
        for table in TABLES:  # of two rows of a pair the one beyond the horizon is the newer
            c = table.c
            theirs = pairs_among(self.connection, c.user_id, c.item_id, pairs)
            for row in self.connection.execute(sa.select(*(c[name] for name in COLUMNS)).where(theirs)):
                known[row.user_id, row.item_id] = Interaction(*row)
        return known

    def _note(
        self, events: Sequence[Event], hashed: Sequence[str | None], outcomes: Mapping[int, EventOutcome]
    ) -> None:
        """Remember what was taken; what was refused may be sent again."""
        refused = (
            EventOutcome.FORGOTTEN,
            EventOutcome.RESTRICTED,
            EventOutcome.UNKNOWN_ITEM,
            EventOutcome.DUPLICATE,
        )
        c = tables.events.c
        self.connection.execute(sa.delete(tables.events).where(c.accepted_at < self.now - REMEMBERED_SECONDS))
        rows = [
            {
                "user_id": event.row.user_id,
                "event_hash": its,
                "item_id": event.row.item_id,
                "accepted_at": self.now,
            }
            for at, (event, its) in enumerate(zip(events, hashed, strict=True))
            if its is not None and outcomes[at] not in refused
        ]
        insert_new(self.connection, tables.events, rows)


def _keyed(event: Event) -> Event:
    user, item = keyed(event.row.user_id), keyed(event.row.item_id, "item_id")
    if (user, item) == pair_of(event.row):
        return event
    return replace(event, row=replace(event.row, user_id=user, item_id=item))


def _newest(rows: Mapping[int, Interaction]) -> dict[Pair, int]:
    """Each pair's newest row, by its place; of equal ones the first."""
    found: dict[Pair, int] = {}
    for at, row in rows.items():
        held = found.get(pair_of(row))
        if held is None or age_of(rows[held]) < age_of(row):
            found[pair_of(row)] = at
    return found


def _outcome(row: Interaction, held: Interaction | None) -> EventOutcome:
    if held is None:
        return EventOutcome.NEW
    if age_of(row) == age_of(held):
        return EventOutcome.UNCHANGED
    return EventOutcome.CHANGED if age_of(row) > age_of(held) else EventOutcome.OUTDATED

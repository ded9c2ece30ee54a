"""All that is held of one person, and where it counts; and what a deletion would find. Nothing is changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from service.ledger import aside, tables
from service.ledger.findings import look_up
from service.ledger.hashes import KeyedHashes
from service.ledger.impressions import HeldImpression, count_of, impressions_of
from service.ledger.requests import find_requests
from service.ledger.restraints import read_restraints
from service.ledger.rows import current_rows, of_user
from service.ledger.statements import keyed
from service.records import ForgetRequest, ItemName, Outcome, Restraint, RestraintKind


@dataclass(frozen=True, slots=True)
class HeldRow:
    """One interaction. `counted`: samples and counts are made of it as it is.

    Else it waits for the next full build; or it is set aside, as its person is restricted, or a deletion is under a hold.
    """

    item_id: str
    title: str
    liked: bool
    rating: float | None
    timestamp: int
    counted: bool
    set_aside: RestraintKind | None = None
    source: str | None = None  # label of the file or client that it came from


@dataclass(frozen=True, slots=True)
class SeenBy:
    """An artifact that has seen the person: an adapter or a memory by its digest, or a validation row by its opaque key."""

    kind: str  # adapter | memory | row
    key: str
    shard: str | None
    samples: int


@dataclass(frozen=True, slots=True)
class PersonExport:
    """All that is held of one person."""

    rows: tuple[HeldRow, ...]
    seen_by: tuple[SeenBy, ...]
    events: int  # whose ids are remembered
    requests: tuple[ForgetRequest, ...]  # deletions of theirs
    restraints: tuple[Restraint, ...] = ()
    impressions: tuple[HeldImpression, ...] = ()


@dataclass(frozen=True, slots=True)
class ForgetPreview:
    """What a deletion would find if it came now."""

    outcome: Outcome
    interactions: int
    seen_by: tuple[SeenBy, ...]  # would be masked at once
    impressions: int = 0  # that would be erased, or have an item taken out


def export(connection: sa.Connection, user_id: str, hashes: KeyedHashes) -> PersonExport:
    """What is held of a person. If nothing is, it is empty, but for their deletions."""
    key = keyed(user_id)
    known_events = sa.select(sa.func.count()).where(tables.events.c.user_id == key)
    theirs = tables.forget_requests.c.subject.in_(hashes.subjects(key))
    return PersonExport(
        rows=(*_rows(connection, key), *_rows_aside(connection, key)),
        seen_by=_seen_by(connection, key),
        events=int(connection.scalar(known_events) or 0),
        requests=tuple(find_requests(connection, theirs)),
        restraints=tuple(read_restraints(connection, tables.restraints.c.subject.in_(hashes.subjects(key)))),
        impressions=tuple(impressions_of(connection, key)),
    )


def preview(
    connection: sa.Connection, user_id: str, names: Collection[ItemName] | None, hashes: KeyedHashes
) -> ForgetPreview:
    """What a deletion of a user, or of these of their interactions, would find and mask."""
    key = keyed(user_id)
    seen_by = _seen_by(connection, key)
    findings = look_up(connection, key, names, seen=bool(seen_by), hashes=hashes)
    held = aside.items_held(connection, key, findings.held)
    owing = bool(held) or (names is None and bool(seen_by))
    shown = count_of(connection, key, findings.held)
    return ForgetPreview(findings.outcome, len(held), seen_by if owing else (), shown)


def _rows(connection: sa.Connection, user_id: str) -> tuple[HeldRow, ...]:
    rows = current_rows(of_user(user_id))
    c, beyond = rows.c, set[str]()
    for table in (tables.due, tables.arrivals):
        beyond.update(connection.scalars(sa.select(table.c.item_id).where(table.c.user_id == user_id)))
    query = sa.select(c.item_id, tables.items.c.title, c.liked, c.rating, c.timestamp, c.source)
    joined = query.join_from(rows, tables.items, c.item_id == tables.items.c.item_id)
    found = connection.execute(joined.order_by(c.timestamp, c.item_id))
    return tuple(
        HeldRow(item, title, bool(liked), rating, time, item not in beyond, source=source)
        for item, title, liked, rating, time, source in found
    )


def _rows_aside(connection: sa.Connection, user_id: str) -> Iterator[HeldRow]:
    for row in aside.rows_of(connection, user_id):
        title = connection.scalar(sa.select(tables.items.c.title).where(tables.items.c.item_id == row.item_id))
        why: RestraintKind = "restriction" if row.request_id == aside.RESTRICTED else "hold"
        # An item that went with the rows has its id for its title.
        told = row.item_id if title is None else title
        yield HeldRow(row.item_id, told, bool(row.liked), row.rating, row.timestamp, False, why, row.source)


def _seen_by(connection: sa.Connection, user_id: str) -> tuple[SeenBy, ...]:
    c = tables.lineage.c
    mine = sa.select(c.kind, c.key, c.shard, c.samples).where(c.user_id == user_id).order_by(c.kind, c.key)
    return tuple(SeenBy(*row) for row in connection.execute(mine))

"""What stays of a deletion: keyed hashes by which the ledger recognizes what must not come back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.aside import RESTRICTED, restricted_users, rows_of
from service.ledger.hashes import KeyedHashes
from service.ledger.rows import TABLES, current_rows
from service.ledger.statements import chunks, upsert
from service.records import Interaction, Tombstone

_SHOWN = sa.func.coalesce(tables.shown_items.c.request_id, RESTRICTED) == RESTRICTED  # and not kept by a hold
_DERIVED = (tables.placements, tables.changes, tables.memberships, tables.lineage)


def add_tombstones(connection: sa.Connection, tombstones: Iterable[Tombstone]) -> None:
    """Set tombstones; of two over one scope the later stays."""
    upsert(connection, tables.tombstones, [asdict(tombstone) for tombstone in tombstones])


def add_missing_tombstones(connection: sa.Connection, known: Sequence[Tombstone]) -> tuple[int, list[Tombstone]]:
    """Set those that do not stand yet, or for a shorter time: how many, and those that stand and are not known, or for less."""
    standing = {(stone.subject, stone.scope_hash): stone for stone in read_tombstones(connection)}
    given = {(stone.subject, stone.scope_hash): stone for stone in known}
    missing = [stone for over, stone in given.items() if stone.adds_to(standing.get(over))]
    add_tombstones(connection, missing)
    return len(missing), [stone for over, stone in standing.items() if stone.adds_to(given.get(over))]


def remove_expired(connection: sa.Connection, now: float) -> None:
    """Remove those that have stood for as long as they should."""
    connection.execute(sa.delete(tables.tombstones).where(tables.tombstones.c.expires_at <= now))


def remove(connection: sa.Connection, tombstones: Iterable[Tombstone]) -> None:
    """Remove tombstones: their users came back."""
    c = tables.tombstones.c
    for stone in tombstones:
        connection.execute(
            sa.delete(tables.tombstones).where(c.subject == stone.subject, c.scope_hash == stone.scope_hash)
        )


def read_tombstones(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Tombstone]:
    """The tombstones that meet all conditions, in a fixed order."""
    c = tables.tombstones.c
    columns = (c[field.name] for field in fields(Tombstone))
    rows = connection.execute(sa.select(*columns).where(*conditions).order_by(c.subject, c.scope_hash))
    return [Tombstone(*row) for row in rows]


def over(
    connection: sa.Connection,
    interactions: Iterable[Interaction],
    subjects: Mapping[str, str],
    hashes: KeyedHashes,
    now: float,
) -> dict[tuple[str, str], list[Tombstone]]:
    """The (user id, item id) that lie under tombstones -> these. `subjects` maps user ids to keyed hashes."""
    by_subject: dict[str, dict[str, Tombstone]] = {}
    all_subjects = {
        user_id: (subject,) if user_id.isascii() and not hashes.retired else hashes.subjects(user_id)
        for user_id, subject in subjects.items()
    }
    for chunk in chunks(subject for own in all_subjects.values() for subject in own):
        for stone in read_tombstones(connection, tables.tombstones.c.subject.in_(chunk)):
            by_subject.setdefault(stone.subject, {})[stone.scope_hash] = stone
    found: dict[tuple[str, str], list[Tombstone]] = {}
    for row in interactions:
        mine = [by_subject[subject] for subject in all_subjects[row.user_id] if subject in by_subject]
        # As a rule there is none, and nothing need be hashed.
        stones = _stones_over(row.user_id, row.item_id, mine, hashes) if mine else []
        if stones := [stone for stone in stones if stone.covers(row.timestamp, now)]:
            found[row.user_id, row.item_id] = stones
    return found


def _stones_over(
    user_id: str, item_id: str, of_user: Sequence[Mapping[str, Tombstone]], hashes: KeyedHashes
) -> list[Tombstone]:
    scope_hashes = (tables.WHOLE_USER, *hashes.scope_hashes(user_id, item_id))
    return [stones[scope_hash] for stones in of_user for scope_hash in scope_hashes if scope_hash in stones]


def resurrected_users(connection: sa.Connection, hashes: KeyedHashes, now: float) -> dict[str, list[str] | None]:
    """Users who are held despite a tombstone -> the items concerned; None: everything."""
    forgotten = frozenset(connection.scalars(sa.select(tables.tombstones.c.subject).distinct()))
    if not forgotten:
        return {}
    found: dict[str, list[str] | None] = {}
    for user_id in list(held_users(connection)):
        # There are many tombstones and few who came back: only theirs are read.
        subjects = [subject for subject in hashes.subjects(user_id) if subject in forgotten]
        mine = [_stones_of(connection, subject) for subject in subjects]
        if any(tables.WHOLE_USER in stones and stones[tables.WHOLE_USER].expires_at is None for stones in mine):
            found[user_id] = None
        elif mine and (items := _tombstoned_items(connection, user_id, mine, hashes, now)):
            found[user_id] = items
    return found


def _stones_of(connection: sa.Connection, subject: str) -> dict[str, Tombstone]:
    return {stone.scope_hash: stone for stone in read_tombstones(connection, tables.tombstones.c.subject == subject)}


def held_users(connection: sa.Connection) -> Iterator[str]:
    """Everybody of whom anything is held, but for what a deletion will erase when its hold is released."""
    users = (sa.select(table.c.user_id) for table in (*TABLES, tables.events, *_DERIVED))
    yield from connection.scalars(sa.union(*users, restricted_users(), *_users_shown()))


def _users_shown() -> Iterator[sa.Select[str]]:
    yield sa.select(tables.shown_items.c.user_id).where(_SHOWN)
    # And of an impression from which all items are gone; but not of one that a hold keeps.
    one, shown = tables.impressions.c, tables.shown_items.c
    same = sa.and_(one.user_id == shown.user_id, one.recommendation_id == shown.recommendation_id, ~_SHOWN)
    kept = sa.exists(sa.select(sa.literal(1)).select_from(tables.shown_items).where(same).correlate(tables.impressions))
    yield sa.select(one.user_id).where(~kept)


def _tombstoned_items(
    connection: sa.Connection, user_id: str, of_user: Sequence[Mapping[str, Tombstone]], hashes: KeyedHashes, now: float
) -> list[str]:
    c = current_rows(lambda table: table.c.user_id == user_id).c
    held = [tuple(row) for row in connection.execute(sa.select(c.item_id, c.timestamp))]
    held += [(row.item_id, row.timestamp) for row in rows_of(connection, user_id) if row.request_id == RESTRICTED]
    found = {
        item_id
        for item_id, timestamp in held
        if any(stone.covers(timestamp, now) for stone in _stones_over(user_id, item_id, of_user, hashes))
    }
    shown = tables.shown_items.c
    items = connection.scalars(sa.select(shown.item_id).where(shown.user_id == user_id, _SHOWN).distinct())
    # What an end is set to stands over rows alone: that of a correction leaves what came of an impression.
    found.update(
        item_id
        for item_id in items
        if any(stone.expires_at is None for stone in _stones_over(user_id, item_id, of_user, hashes))
    )
    return sorted(found)

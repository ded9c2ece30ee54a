"""What stays of a deletion: keyed hashes by which the ledger recognizes what must not come back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, fields

import sqlalchemy as sa

from service.data.ledger import tables
from service.data.ledger.hashes import KeyedHashes
from service.data.ledger.statements import chunks, insert_new, upsert
from service.records import Tombstone

_DERIVED = (tables.placements, tables.changes, tables.memberships, tables.exposures)


def bury(connection: sa.Connection, tombstones: Iterable[Tombstone]) -> None:
    """Set tombstones; of two on one grave the later stays."""
    upsert(connection, tables.tombstones, [asdict(tombstone) for tombstone in tombstones])


def bury_missing(connection: sa.Connection, tombstones: Iterable[Tombstone]) -> int:
    """Set those that do not stand yet, and return how many."""
    standing = {(tombstone.subject, tombstone.grave) for tombstone in read_tombstones(connection)}
    missing = [stone for stone in tombstones if (stone.subject, stone.grave) not in standing]
    insert_new(connection, tables.tombstones, [asdict(tombstone) for tombstone in missing])
    return len(missing)


def remove(connection: sa.Connection, tombstones: Iterable[Tombstone]) -> None:
    """Remove tombstones: their users came back."""
    c = tables.tombstones.c
    for stone in tombstones:
        connection.execute(sa.delete(tables.tombstones).where(c.subject == stone.subject, c.grave == stone.grave))


def read_tombstones(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Tombstone]:
    """The tombstones that meet all conditions, in a fixed order."""
    c = tables.tombstones.c
    columns = (c[field.name] for field in fields(Tombstone))
    rows = connection.execute(sa.select(*columns).where(*conditions).order_by(c.subject, c.grave))
    return [Tombstone(**row) for row in rows.mappings()]


def over(
    connection: sa.Connection, pairs: Collection[tuple[str, str]], subjects: Mapping[str, str], hashes: KeyedHashes
) -> dict[tuple[str, str], list[Tombstone]]:
    """The (user id, item id) that lie under tombstones -> these. `subjects` maps user ids to keyed hashes."""
    found = _over(connection, pairs, subjects, hashes)
    for retired in hashes.retired if read_tombstones(connection) else ():
        theirs = {user_id: retired.subject(user_id) for user_id in subjects}
        for pair, stones in _over(connection, pairs, theirs, retired).items():
            found.setdefault(pair, []).extend(stones)
    return found


def _over(
    connection: sa.Connection, pairs: Iterable[tuple[str, str]], subjects: Mapping[str, str], hashes: KeyedHashes
) -> dict[tuple[str, str], list[Tombstone]]:
    """Of one secret."""
    by_subject: dict[str, dict[str, Tombstone]] = {}
    for chunk in chunks(subjects.values()):
        for stone in read_tombstones(connection, tables.tombstones.c.subject.in_(chunk)):
            by_subject.setdefault(stone.subject, {})[stone.grave] = stone
    found: dict[tuple[str, str], list[Tombstone]] = {}
    for user_id, item_id in pairs:
        mine = by_subject.get(subjects[user_id])
        if mine:  # as a rule there is none, and nothing need be hashed
            graves = (tables.WHOLE_USER, hashes.grave(subjects[user_id], item_id))
            if stones := [mine[grave] for grave in graves if grave in mine]:
                found[user_id, item_id] = stones
    return found


def found_again(connection: sa.Connection, hashes: KeyedHashes) -> dict[str, list[str] | None]:
    """Users who are held despite a tombstone -> the items concerned; None: everything."""
    graves: dict[str, set[str]] = {}
    for stone in read_tombstones(connection):
        graves.setdefault(stone.subject, set()).add(stone.grave)
    if not graves:
        return {}
    found: dict[str, list[str] | None] = {}
    for user_id in held_users(connection):
        for keyed in hashes.every():
            mine = graves.get(keyed.subject(user_id), set())
            if tables.WHOLE_USER in mine:
                found[user_id] = None
                break
            if mine and (items := _buried_items(connection, user_id, mine, keyed)):
                found[user_id] = sorted({*(found.get(user_id) or ()), *items})
    return found


def held_users(connection: sa.Connection) -> Iterator[str]:
    """Everybody of whom anything is held."""
    users = (sa.select(table.c.user_id) for table in (tables.interactions, *_DERIVED))
    yield from connection.scalars(sa.union(*users))


def _buried_items(connection: sa.Connection, user_id: str, graves: set[str], hashes: KeyedHashes) -> list[str]:
    c, subject = tables.interactions.c, hashes.subject(user_id)
    held = connection.scalars(sa.select(c.item_id).where(c.user_id == user_id).order_by(c.item_id))
    return [item_id for item_id in held if hashes.grave(subject, item_id) in graves]

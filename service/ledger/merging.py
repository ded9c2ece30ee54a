"""Merging: two ids are one person, so what is held under the one is held under the other, on the caller's transaction.

The id that is left is forgotten as by a deletion: masked, tombstoned, with a receipt. The rows are not lost: they count where
they counted, as the other user's, and of two rows of one item the newest counts as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import sqlalchemy as sa

from service.errors import InvalidInput, MergeRefused, UnknownUser
from service.ledger import impressions, tables, tombstones
from service.ledger.findings import ForgetFindings
from service.ledger.hashes import KeyedHashes
from service.ledger.importing import age_of, interaction_row, pair_of
from service.ledger.placements import mark_changed
from service.ledger.restraints import read_restraints
from service.ledger.rows import COLUMNS, TABLES, of_items, postpone
from service.ledger.statements import chunks, upsert
from service.records import Interaction, Outcome

_RESTRAINED = (
    "the data of one of the two users is restricted, or under a legal hold; lift the restriction, or release the hold, "
    "first"
)
_FORGOTTEN = (
    "the user to be merged into asked for deletion; take them back in first, by an event with allow_returning, if they came "
    "back of their own will"
)


def require_mergeable(
    connection: sa.Connection, user_id: str, into: str, findings: ForgetFindings, hashes: KeyedHashes, now: float
) -> None:
    """Raises InvalidInput, UnknownUser and MergeRefused where a user cannot be merged into the other as things stand."""
    if user_id == into:
        raise InvalidInput("the two users are one already; name two ids")
    both = (*hashes.subjects(user_id), *hashes.subjects(into))
    if read_restraints(connection, tables.restraints.c.subject.in_(both)):
        raise MergeRefused(_RESTRAINED)
    if findings.outcome is not Outcome.ERASED:
        raise UnknownUser("nothing is held of this user, so there is nothing to be merged")
    c = tables.tombstones.c
    whole = c.subject.in_(hashes.subjects(into)), c.scope_hash == tables.WHOLE_USER
    times = [row.timestamp for table in TABLES for row in _rows(connection, table, user_id)]
    if any(stone.covers(min(times, default=now), now) for stone in tombstones.read_tombstones(connection, *whole)):
        raise MergeRefused(_FORGOTTEN)


def move(connection: sa.Connection, user_id: str, into: str, hashes: KeyedHashes, now: float) -> None:
    """Let a user's rows and impressions be another's, but for items of which the other wants nothing held."""
    for user in (user_id, into):
        postpone(connection, user)
    both = (tables.interactions, tables.arrivals)
    counted, arrived = (_newest_of(connection, table, user_id, into, hashes, now) for table in both)
    # Of two rows of a pair the one beyond the horizon is the newer.
    beyond = {item: row for item, row in arrived.items() if item not in counted or age_of(row) > age_of(counted[item])}
    for table, rows in zip(both, (counted, beyond), strict=True):
        connection.execute(sa.delete(table).where(of_items(table, user_id, None)))
        upsert(connection, table, [interaction_row(row) for row in rows.values()])
    for some in chunks(arrived.keys() - beyond.keys()):
        connection.execute(sa.delete(tables.arrivals).where(of_items(tables.arrivals, into, some)))
    mark_changed(connection, [into])
    shown = [Interaction(into, item, True, math.floor(now)) for item in impressions.items_shown(connection, user_id)]
    impressions.erase(connection, user_id, [item for _, item in _buried(connection, shown, into, hashes, now)])
    impressions.move(connection, user_id, into)


def _newest_of(
    connection: sa.Connection, table: sa.Table, user_id: str, into: str, hashes: KeyedHashes, now: float
) -> dict[str, Interaction]:
    """Item -> the newest row of the two in this table, as the other's."""
    moved = [replace(row, user_id=into) for row in _rows(connection, table, user_id)]
    buried = _buried(connection, moved, into, hashes, now)
    newest: dict[str, Interaction] = {row.item_id: row for row in _rows(connection, table, into)}
    for row in moved:
        held = newest.get(row.item_id)
        if pair_of(row) not in buried and (held is None or age_of(row) > age_of(held)):
            newest[row.item_id] = row
    return newest


def _rows(connection: sa.Connection, table: sa.Table, user_id: str) -> list[Interaction]:
    query = sa.select(*(table.c[name] for name in COLUMNS)).where(table.c.user_id == user_id)
    return [Interaction(*row) for row in connection.execute(query)]


def _buried(
    connection: sa.Connection, rows: Iterable[Interaction], user_id: str, hashes: KeyedHashes, now: float
) -> set[tuple[str, str]]:
    return set(tombstones.over(connection, rows, {user_id: hashes.subject(user_id)}, hashes, now))

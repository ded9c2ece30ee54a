"""Rectification: one interaction is erased, and another stands in its place, on the caller's transaction."""

from __future__ import annotations

import math
from dataclasses import replace

import sqlalchemy as sa

from service.errors import UnknownInteraction
from service.ledger import aside, horizon, tables
from service.ledger.importing import interaction_row
from service.ledger.rows import COLUMNS, current_rows
from service.ledger.statements import keyed, upsert
from service.records import Correction, Interaction, Tombstone

# A tombstone without an end stands over rows of any time, and the corrected row must be able to stay.
_STANDS_SECONDS = 1_000 * 365 * 86_400.0


def corrected(connection: sa.Connection, user_id: str, correction: Correction, now: float) -> Interaction:
    """The row that replaces what is held: newer than it, and than `now`. Raises InvalidInput, UnknownInteraction."""
    item_id = keyed(correction.item_id, "an item_id")
    c = current_rows(lambda table: sa.and_(table.c.user_id == user_id, table.c.item_id == item_id)).c
    found = connection.execute(sa.select(*(c[name] for name in COLUMNS))).first()
    held = aside.restricted_row(connection, user_id, item_id) if found is None else Interaction(*found)
    if held is None:
        raise UnknownInteraction(
            "nothing is held of this user and this item, so there is nothing to rectify; send it to POST /interactions"
        )
    time = math.floor(max(now, held.timestamp)) + 1
    return Interaction(user_id, item_id, correction.liked, time, correction.rating)


def put(connection: sa.Connection, row: Interaction, restricted: bool) -> None:
    """Hold the corrected row, beyond the horizon if there is one: then it counts from the next full build on.

    That of somebody whose data is restricted is set aside with the others.
    """
    beyond = horizon.is_set(connection)
    if restricted:
        aside.put(connection, interaction_row(row), beyond)
    else:
        upsert(connection, tables.arrivals if beyond else tables.interactions, [interaction_row(row)])
    horizon.note_arrival(connection)


def tombstone_before(row: Interaction, over: Tombstone) -> Tombstone:
    """A tombstone over older rows of the pair alone, so that no stale import or backup brings back what was wrong."""
    last = row.timestamp - 1.0
    return replace(over, accepted_at=last, expires_at=last + _STANDS_SECONDS)


def stands_before(tombstone: Tombstone | None) -> bool:
    """Whether it was set by a correction, and so stands over rows older than that alone."""
    if tombstone is None or tombstone.expires_at is None or tombstone.accepted_at is None:
        return False
    return tombstone.expires_at - tombstone.accepted_at >= _STANDS_SECONDS

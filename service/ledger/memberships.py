"""The recorded shards of each partition that looks at everybody (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.aside import restricted_users
from service.ledger.placements import held_users
from service.ledger.statements import chunks, upsert


def read_partition(connection: sa.Connection, partition_digest: str) -> dict[str, str]:
    """Unit key -> shard name. Those of restricted people stay recorded, and count for nobody meanwhile."""
    c = tables.memberships.c
    counting = sa.and_(c.partition_digest == partition_digest, c.user_id.not_in(restricted_users()))
    query = sa.select(tables.memberships).where(counting)
    return {row.unit_key: row.shard for row in connection.execute(query)}


def save_partition(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    """Store, replacing. A user forgotten since the caller read its view must not come back through what was computed."""
    held = held_users(connection, {row["user_id"] for row in rows})
    upsert(connection, tables.memberships, [row for row in rows if row["user_id"] in held])


def prune_partition(connection: sa.Connection, partition_digest: str, units: Collection[str]) -> None:
    """Drop the recorded places of units that are no more; a sample's key could be guessed by who knows the user."""
    gone = read_partition(connection, partition_digest).keys() - set(units)
    c = tables.memberships.c
    for chunk in chunks(gone):
        connection.execute(
            sa.delete(tables.memberships).where(c.partition_digest == partition_digest, c.unit_key.in_(chunk))
        )

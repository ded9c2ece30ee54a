"""Where each unit stands: its path in the public tree, and the recorded shards of each partition."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from service.data.ledger import tables
from service.data.ledger.statements import chunks, upsert


def read_placements(connection: sa.Connection) -> dict[str, tuple[str, str]]:
    """Unit key -> (digest, path)."""
    return {row.unit_key: (row.digest, row.path) for row in connection.execute(sa.select(tables.placements))}


def read_partition(connection: sa.Connection, partition_digest: str) -> dict[str, str]:
    """Unit key -> shard name."""
    query = sa.select(tables.memberships).where(tables.memberships.c.partition_digest == partition_digest)
    return {row.unit_key: row.shard for row in connection.execute(query)}


def prune_placements(connection: sa.Connection, units: Collection[str]) -> None:
    """Drop the paths of units that are no more."""
    key = tables.placements.c.unit_key
    for chunk in chunks(set(connection.scalars(sa.select(key))) - set(units)):
        connection.execute(sa.delete(tables.placements).where(key.in_(chunk)))


def prune_partition(connection: sa.Connection, partition_digest: str, units: Collection[str]) -> None:
    """Drop the recorded places of units that are no more; a sample's key could be guessed by who knows the user."""
    gone = read_partition(connection, partition_digest).keys() - set(units)
    c = tables.memberships.c
    for chunk in chunks(gone):
        connection.execute(
            sa.delete(tables.memberships).where(c.partition_digest == partition_digest, c.unit_key.in_(chunk))
        )


def save_of_held_users(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Store, replacing. A user forgotten since the caller read its view must not come back through what was computed."""
    user_id = tables.interactions.c.user_id
    held: set[str] = set()
    for chunk in chunks({row["user_id"] for row in rows}):
        held.update(connection.scalars(sa.select(user_id).where(user_id.in_(chunk)).distinct()))
    upsert(connection, table, [row for row in rows if row["user_id"] in held])

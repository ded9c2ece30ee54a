"""Who has liked what: the interactions, read by user or all at once."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby

import sqlalchemy as sa

from service.errors import UnknownUser
from service.ledger import tables
from service.ledger.catalog import item_of, items_by_id
from service.ledger.horizon import as_at_horizon, deleted_at_horizon, items_at_horizon, served_items, waiting
from service.ledger.rows import TABLES, Condition, current_rows, everything, items_of, of_user, rows_when_due
from service.ledger.state import item_type, read_state
from service.ledger.statements import chunks, count, keyed
from service.records import Interaction, LedgerView, RatedItem


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """What the ledger holds now."""

    items: int
    interactions: int
    users: int


def read_history(connection: sa.Connection, user_id: str, limit: int) -> tuple[RatedItem, ...]:
    """The user's last opinions, oldest first. Raises UnknownUser when there are none."""
    rows_of_now = current_rows(of_user(keyed(user_id)))
    c = rows_of_now.c
    query = sa.select(*tables.items.c, c.liked).join_from(
        rows_of_now, tables.items, c.item_id == tables.items.c.item_id
    )
    newest_first = query.order_by(c.timestamp.desc(), c.item_id.desc())
    rows = connection.execute(newest_first.limit(limit)).all()
    if not rows:
        raise UnknownUser("nothing is held of this user")
    return tuple(RatedItem(item_of(row), row.liked) for row in reversed(rows))


def read_has_order(connection: sa.Connection, user_id: str) -> bool:
    """Whether the user's interactions came at more than one time: otherwise nothing says which was first."""
    c = current_rows(of_user(keyed(user_id))).c
    times = sa.select(sa.func.min(c.timestamp), sa.func.max(c.timestamp))
    first, last = connection.execute(times).one()
    return bool(first != last)


def read_seen(connection: sa.Connection, user_id: str) -> frozenset[str]:
    """Ids of the user's items; of an unknown user none."""
    return frozenset(items_of(connection, keyed(user_id)))


def read_users(connection: sa.Connection, after: str | None, limit: int) -> list[str]:
    """The first `limit` users behind this id (None: of all), by id: those of whom a row is held that may be used."""
    found: set[str] = set()
    for table in TABLES:
        c = table.c.user_id
        behind = sa.select(c).distinct().order_by(c).limit(limit)
        found.update(connection.scalars(behind if after is None else behind.where(c > after)))
    return sorted(found)[:limit]


def read_counts(connection: sa.Connection) -> LedgerCounts:
    """Three countings in one transaction."""
    c = current_rows(everything).c if waiting(connection) else tables.interactions.c
    rows, users = connection.execute(sa.select(sa.func.count(c.item_id), sa.func.count(c.user_id.distinct()))).one()
    return LedgerCounts(count(connection, tables.items), int(rows), int(users))


def read_view(connection: sa.Connection, due: bool = False) -> LedgerView:
    """Everything that a build wants, in an order that does not depend on how it came in.

    `due`: as the full build under way will find it once it has moved the horizon.
    """
    state = read_state(connection)
    return LedgerView(
        fence=state.fence,
        item_type=item_type(connection),
        items=items_at_horizon(connection, due),
        interactions=_by_user(connection, everything, due),
        catalog=served_items(connection),
        horizon=(state.due if due else state.horizon) or 0,
        catalog_revision=state.catalog,
    )


def read_view_of(connection: sa.Connection, users: Collection[str], due: bool = False) -> LedgerView:
    """A view of these users alone, and of the items alone that they have met."""
    by_user: dict[str, tuple[Interaction, ...]] = {}
    for chunk in chunks(sorted(users)):
        by_user |= _by_user(connection, _of_users(chunk), due)
    named = items_by_id(connection, {row.item_id for own in by_user.values() for row in own})
    met = as_at_horizon(connection, named, due)
    return LedgerView(read_state(connection).fence, item_type(connection), tuple(met.values()), by_user)


def _of_users(users: Collection[str]) -> Condition:
    return lambda table: table.c.user_id.in_(users)


def _by_user(connection: sa.Connection, of: Condition, due: bool) -> dict[str, tuple[Interaction, ...]]:
    counted = rows_when_due(of) if due else sa.select(tables.interactions).where(of(tables.interactions)).subquery()
    c = counted.c
    query = sa.select(c.user_id, c.item_id, c.liked, c.timestamp)
    gone = deleted_at_horizon(connection, due)
    found = connection.execute(query.order_by(c.user_id, c.timestamp, c.item_id))
    rows = (row for row in found if row.item_id not in gone) if gone else found
    return {
        user_id: tuple(Interaction(user_id, sys.intern(item_id), liked, time) for _, item_id, liked, time in mine)
        for user_id, mine in groupby(rows, key=lambda row: str(row.user_id))
    }

"""Who has liked what: the interactions, read by user or all at once."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby

import sqlalchemy as sa

from service.errors import UnknownUser
from service.ledger import tables
from service.ledger.catalog import all_items, item_of, items_by_id
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
    c = tables.interactions.c
    query = sa.select(*tables.items.c, c.liked).join_from(tables.interactions, tables.items)
    newest_first = query.where(c.user_id == keyed(user_id)).order_by(c.timestamp.desc(), c.item_id.desc())
    rows = connection.execute(newest_first.limit(limit)).all()
    if not rows:
        raise UnknownUser("nothing is held of this user")
    return tuple(RatedItem(item_of(row), row.liked) for row in reversed(rows))


def read_has_order(connection: sa.Connection, user_id: str) -> bool:
    """Whether the user's interactions came at more than one time: otherwise nothing says which was first."""
    c = tables.interactions.c
    times = sa.select(sa.func.min(c.timestamp), sa.func.max(c.timestamp)).where(c.user_id == keyed(user_id))
    first, last = connection.execute(times).one()
    return bool(first != last)


def read_seen(connection: sa.Connection, user_id: str) -> frozenset[str]:
    """Ids of the user's items; of an unknown user none."""
    c = tables.interactions.c
    return frozenset(connection.scalars(sa.select(c.item_id).where(c.user_id == keyed(user_id))))


def read_counts(connection: sa.Connection) -> LedgerCounts:
    """Three countings in one transaction."""
    users = connection.scalar(sa.select(sa.func.count(tables.interactions.c.user_id.distinct())))
    return LedgerCounts(count(connection, tables.items), count(connection, tables.interactions), int(users or 0))


def read_view(connection: sa.Connection) -> LedgerView:
    """Everything that a build wants, in an order that does not depend on how it came in."""
    return LedgerView(read_state(connection).fence, item_type(connection), all_items(connection), _by_user(connection))


def read_view_of(connection: sa.Connection, users: Collection[str]) -> LedgerView:
    """A view of these users alone, and of the items alone that they have met."""
    by_user: dict[str, tuple[Interaction, ...]] = {}
    for chunk in chunks(sorted(users)):
        by_user |= _by_user(connection, tables.interactions.c.user_id.in_(chunk))
    met = items_by_id(connection, {row.item_id for own in by_user.values() for row in own})
    return LedgerView(read_state(connection).fence, item_type(connection), tuple(met.values()), by_user)


def _by_user(connection: sa.Connection, *of: sa.ColumnElement[bool]) -> dict[str, tuple[Interaction, ...]]:
    c = tables.interactions.c
    query = sa.select(c.user_id, c.item_id, c.liked, c.timestamp).where(*of)
    rows = connection.execute(query.order_by(c.user_id, c.timestamp, c.item_id))
    return {
        user_id: tuple(Interaction(user_id, sys.intern(item_id), liked, time) for _, item_id, liked, time in mine)
        for user_id, mine in groupby(rows, key=lambda row: str(row.user_id))
    }

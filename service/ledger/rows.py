"""The rows of now: those of `interactions`, which samples and counts are made of, and over them those of `arrivals`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.statements import chunks

COLUMNS = ("user_id", "item_id", "liked", "timestamp", "rating", "source")
TABLES = (tables.interactions, tables.arrivals)  # all that hold rows of people

Condition = Callable[[sa.Table], sa.ColumnElement[bool]]


def everything(_: sa.Table) -> sa.ColumnElement[bool]:
    """The condition that all rows meet."""
    return sa.true()


def of_user(user_id: str) -> Condition:
    """The condition that one person's rows meet."""
    return lambda table: table.c.user_id == user_id


def current_rows(of: Condition) -> sa.Subquery:
    """The rows of now that meet a condition on user and item: one of each pair, the one beyond the horizon if there is one."""
    arrived, counted = tables.arrivals, tables.interactions
    same = sa.and_(arrived.c.user_id == counted.c.user_id, arrived.c.item_id == counted.c.item_id)
    replaced = sa.exists(sa.select(sa.literal(1)).select_from(arrived).where(same).correlate(counted))
    beyond = sa.select(*(arrived.c[name] for name in COLUMNS)).where(of(arrived))
    before = sa.select(*(counted.c[name] for name in COLUMNS)).where(of(counted), ~replaced)
    return sa.union_all(beyond, before).subquery("current_rows")


def items_of(connection: sa.Connection, user_id: str, among: Iterable[str] | None = None) -> set[str]:
    """Ids of the items that rows of this user name now, or of those `among` them."""
    parts = [None] if among is None else list(chunks(among))
    return {
        item_id for table in TABLES for some in parts for item_id in connection.scalars(_items(table, user_id, some))
    }


def of_items(table: sa.Table, user_id: str, some: list[str] | None) -> sa.ColumnElement[bool]:
    """The condition that one person's rows meet, or those of them that name one of these items."""
    mine = table.c.user_id == user_id
    return mine if some is None else sa.and_(mine, table.c.item_id.in_(some))


def erase(connection: sa.Connection, user_id: str, among: Iterable[str] | None, keep_events: bool = False) -> None:
    """Delete a user's rows and known events, or those of these items. `keep_events`: an event that is sent again is known."""
    chosen = None if among is None else list(among)
    for table in TABLES if keep_events else (*TABLES, tables.events):
        mine = sa.delete(table).where(table.c.user_id == user_id)
        if chosen is None:
            connection.execute(mine)
        for some in chunks(chosen or ()):
            connection.execute(mine.where(table.c.item_id.in_(some)))


def named_items(connection: sa.Connection, among: Iterable[str]) -> set[str]:
    """Those of these items that anybody's row names."""
    # No index leads from an item to its rows: one reading of them for 500 items.
    return {
        item_id
        for some in chunks(among)
        for table in TABLES
        for item_id in connection.scalars(sa.select(table.c.item_id).where(table.c.item_id.in_(some)).distinct())
    }


def _items(table: sa.Table, user_id: str, some: list[str] | None) -> sa.Select[str]:
    return sa.select(table.c.item_id).where(of_items(table, user_id, some))

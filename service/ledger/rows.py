"""The rows of now: those of `interactions`, which samples and counts are made of, and over them those that came later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.statements import chunks

COLUMNS = ("user_id", "item_id", "liked", "timestamp", "rating", "source")
# All that hold rows of people. Of two rows of one user and item, that of the later table is the newer.
TABLES = (tables.interactions, tables.due, tables.arrivals)

Condition = Callable[[sa.Table], sa.ColumnElement[bool]]


def everything(_: sa.Table) -> sa.ColumnElement[bool]:
    """The condition that all rows meet."""
    return sa.true()


def of_user(user_id: str) -> Condition:
    """The condition that one person's rows meet."""
    return lambda table: table.c.user_id == user_id


def current_rows(of: Condition) -> sa.Subquery:
    """The rows of now that meet a condition on user and item: one of each pair, the one beyond the horizon if there is one."""
    return _newest(TABLES, of).subquery("current_rows")


def rows_when_due(of: Condition) -> sa.Subquery:
    """The rows that will count when the full build under way is done, that meet a condition on user and item."""
    return _newest((tables.interactions, tables.due), of).subquery("rows_when_due")


def _newest(over: Sequence[sa.Table], of: Condition) -> sa.CompoundSelect[Any]:
    parts = []
    for number, table in enumerate(over):
        replaced = (_in(later, table) for later in over[number + 1 :])
        parts.append(sa.select(*(table.c[name] for name in COLUMNS)).where(of(table), *(~one for one in replaced)))
    return sa.union_all(*parts)


def _in(other: sa.Table, table: sa.Table) -> sa.Exists:
    """The condition that another table has a row of the same user and item."""
    same = sa.and_(other.c.user_id == table.c.user_id, other.c.item_id == table.c.item_id)
    return sa.exists(sa.select(sa.literal(1)).select_from(other).where(same).correlate(table))


def postpone(connection: sa.Connection, user_id: str) -> None:
    """Let a user's rows that are due wait for the full build after the one under way."""
    due, arrivals = tables.due, tables.arrivals
    mine = due.c.user_id == user_id
    older = sa.select(*(due.c[name] for name in COLUMNS)).where(mine, ~_in(arrivals, due))
    connection.execute(sa.insert(arrivals).from_select(COLUMNS, older))
    connection.execute(sa.delete(due).where(mine))


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

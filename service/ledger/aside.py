"""Rows that are set aside: kept, and in no sample, no count and no answer.

Those of a restricted person go back to where they were when the restriction is lifted. Those that a deletion would erase, were
they not under a legal hold, are erased when it is released. An item that nobody else's row names goes with them, as it does
with a deletion, and comes back with them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from service.ledger import rows, tables
from service.ledger.rows import COLUMNS
from service.ledger.state import set_state
from service.ledger.statements import Row, chunks, insert_new, upsert, upsert_from
from service.records import Interaction

RESTRICTED = ""  # in the place of a deletion's id: these go back
_aside = tables.set_aside
_c = _aside.c
_MOVED = (tables.interactions, tables.arrivals)
_FACTS = {"item": tables.items, "former_item": tables.former_items}


def set_aside(connection: sa.Connection, user_id: str, among: Iterable[str] | None, request_id: str) -> None:
    """Move a user's rows here, or those of these items; with a deletion's id also those that were here already."""
    rows.postpone(connection, user_id)  # what is set aside is of no full build under way
    parts = [None] if among is None else list(chunks(among))
    for some in parts:
        if request_id != RESTRICTED:
            mine = _of(user_id, RESTRICTED, some)
            connection.execute(sa.update(_aside).where(mine).values(request_id=request_id))
        for table in _MOVED:
            _move_in(connection, table, user_id, some, request_id)


def _move_in(connection: sa.Connection, table: sa.Table, user_id: str, some: list[str] | None, request_id: str) -> None:
    chosen = rows.of_items(table, user_id, some)
    beyond = sa.literal(table is tables.arrivals, sa.Boolean).label("beyond")
    found = sa.select(sa.literal(request_id).label("request_id"), beyond, *(table.c[name] for name in COLUMNS))
    connection.execute(sa.insert(_aside).from_select(["request_id", "beyond", *COLUMNS], found.where(chosen)))
    connection.execute(sa.delete(table).where(chosen))


def put_back(connection: sa.Connection, user_id: str) -> int:
    """Move a restricted user's rows to where they were, with the items that went with them; how many rows."""
    mine = _of(user_id, RESTRICTED)
    _put_items_back(connection, connection.execute(sa.select(_aside).where(mine)).all())
    moved = 0
    for table in _MOVED:
        chosen = sa.and_(mine, _c.beyond == sa.literal(table is tables.arrivals, sa.Boolean))
        found = sa.select(*(_c[name] for name in COLUMNS)).where(chosen)
        connection.execute(upsert_from(connection, table, found))
        moved += connection.execute(sa.delete(_aside).where(chosen)).rowcount
    return moved


def _put_items_back(connection: sa.Connection, found: Iterable[Row]) -> None:
    kept = [row for row in found if row.item is not None]
    held: set[str] = set()
    for some in chunks(row.item_id for row in kept):
        held.update(connection.scalars(sa.select(tables.items.c.item_id).where(tables.items.c.item_id.in_(some))))
    # One that has been stated or made anew meanwhile is as that says; but samples knew it, and know it as it was.
    _put_former_back(connection, [row for row in kept if row.item_id in held and not row.beyond])
    missing = [row for row in kept if row.item_id not in held]
    insert_new(connection, tables.items, [json.loads(row.item) for row in missing])
    former = [json.loads(row.former_item) for row in missing if row.former_item is not None]
    insert_new(connection, tables.former_items, former)
    if missing:
        state = tables.state.c
        set_state(connection, availability=state.availability + 1, catalog=state.catalog + 1)


def _put_former_back(connection: sa.Connection, kept: Iterable[Row]) -> None:
    was = {row.item_id: json.loads(row.former_item or row.item) for row in kept}
    c, unknown = tables.former_items.c, set[str]()
    for some in chunks(was):
        unknown.update(connection.scalars(sa.select(c.item_id).where(c.item_id.in_(some), ~c.stated)))
    names = [column.name for column in tables.former_items.columns if column.name != "stated"]
    facts = [{"stated": True} | {name: was[one][name] for name in names} for one in sorted(unknown)]
    upsert(connection, tables.former_items, facts)


def keep_items(connection: sa.Connection, ids: Collection[str]) -> None:
    """Keep these items, which are about to be dropped, with the rows here that name them."""
    named = _named(connection, ids)
    for column, table in _FACTS.items():
        for some in chunks(named):
            for row in connection.execute(sa.select(table).where(table.c.item_id.in_(some))).mappings().all():
                facts = json.dumps(dict(row), ensure_ascii=False, sort_keys=True)
                here = sa.update(_aside).where(_c.item_id == row["item_id"])
                connection.execute(here.values({column: facts}))


def _named(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    return {
        one for some in chunks(ids) for one in connection.scalars(sa.select(_c.item_id).where(_c.item_id.in_(some)))
    }


def fold(connection: sa.Connection) -> None:
    """Move the horizon here, too: what lies beyond it takes its place, so that it counts when it is put back."""
    beyond = sa.and_(_c.request_id == RESTRICTED, _c.beyond)
    names = ("request_id", *COLUMNS, *_FACTS)
    within = sa.select(sa.false().label("beyond"), *(_c[name] for name in names))
    connection.execute(upsert_from(connection, _aside, within.where(beyond)))
    connection.execute(sa.delete(_aside).where(beyond))
    connection.execute(sa.update(_aside).values(former_item=None))


def erase(connection: sa.Connection, user_id: str, among: Iterable[str] | None) -> None:
    """Delete a restricted user's rows, or those of these items."""
    for some in [None] if among is None else list(chunks(among)):
        connection.execute(sa.delete(_aside).where(_of(user_id, RESTRICTED, some)))


def erase_held(connection: sa.Connection, request_ids: Iterable[str]) -> None:
    """Delete what these deletions would have erased."""
    for some in chunks(request_ids):
        connection.execute(sa.delete(_aside).where(_c.request_id.in_(some)))


def put(connection: sa.Connection, row: Mapping[str, Any], beyond: bool) -> None:
    """Hold a row (columns of an interaction, by their names) of a restricted user."""
    upsert(connection, _aside, [{**row, "request_id": RESTRICTED, "beyond": beyond}])


def restricted_row(connection: sa.Connection, user_id: str, item_id: str) -> Interaction | None:
    """The row of now of a restricted user and an item."""
    mine = sa.select(*(_c[name] for name in COLUMNS)).where(_of(user_id, RESTRICTED, [item_id]))
    found = connection.execute(mine.order_by(_c.beyond.desc())).first()
    return None if found is None else Interaction(*found)


def rows_of(connection: sa.Connection, user_id: str) -> list[Row]:
    """What is set aside of a user, in order of time; where a row lies over another, the one beyond the horizon alone."""
    found = connection.execute(
        sa.select(_aside).where(_c.user_id == user_id).order_by(_c.timestamp, _c.item_id, _c.request_id, _c.beyond)
    ).all()
    newest = {(row.request_id, row.item_id): row for row in sorted(found, key=lambda row: bool(row.beyond))}
    return [row for row in found if newest[row.request_id, row.item_id] is row]


def items_held(connection: sa.Connection, user_id: str, among: Iterable[str] | None = None) -> set[str]:
    """Ids of the items that rows of this user name, or of those `among` them, also where the user is restricted."""
    chosen = None if among is None else list(among)
    held = rows.items_of(connection, user_id, chosen)
    for some in [None] if chosen is None else list(chunks(chosen)):
        held.update(connection.scalars(sa.select(_c.item_id).where(_of(user_id, RESTRICTED, some))))
    return held


def users_aside(connection: sa.Connection) -> set[str]:
    """Everybody of whom rows or impressions are set aside."""
    shown = tables.shown_items.c
    of_rows, of_shown = sa.select(_c.user_id), sa.select(shown.user_id).where(shown.request_id.is_not(None))
    return set(connection.scalars(sa.union(of_rows, of_shown)))


def restricted_users() -> sa.Select[str]:
    """The query of everybody whose rows go back."""
    return sa.select(_c.user_id).where(_c.request_id == RESTRICTED)


def _of(user_id: str, request_id: str, some: list[str] | None = None) -> sa.ColumnElement[bool]:
    mine = sa.and_(_c.user_id == user_id, _c.request_id == request_id)
    return mine if some is None else sa.and_(mine, _c.item_id.in_(some))

"""The horizon: up to where the rows and items that arrived make samples and counts.

Before the first full build everything counts. From then on a new row stands in `arrivals`, beside the one that it replaces in
`interactions`, and an item that changes leaves what it was in `former_items`. A deletion's build reads neither, so it reads of
everybody who stays what the build before it read.

A full build begins by saying what is `due`: all that has arrived by then. It makes what it can of that while deletions go on at
the old horizon, and moves the horizon last: what is due takes its place in `interactions`. What arrives meanwhile waits for the
next one, and an item that changes meanwhile leaves what it was in `due_items`, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from service.ledger import aside, tables
from service.ledger.catalog import all_items, item_of
from service.ledger.placements import mark_changed, mark_readers_changed
from service.ledger.rows import COLUMNS
from service.ledger.state import raise_revision, read_state, set_state
from service.ledger.statements import Row, chunks, count, insert_new, upsert_from
from service.records import Item

_a, _d, _i = tables.arrivals, tables.due, tables.interactions
_FACTS = ("title", "year", "genres", "author", "created", "deleted")


def is_set(connection: sa.Connection) -> bool:
    """Whether a full build has begun, so that what comes now lies beyond it."""
    return read_state(connection).horizon is not None


def waiting(connection: sa.Connection) -> int:
    """How many rows lie beyond the horizon."""
    return count(connection, _a) + count(connection, _d)


def note_arrival(connection: sa.Connection) -> None:
    """To be called in each transaction that brings what will count. It makes no cache old: nothing served depends on it."""
    set_state(connection, arrived=tables.state.c.arrived + 1)


def note_former(connection: sa.Connection, ids: Iterable[str]) -> None:
    """Keep what these items are, before they change: samples and anchors know them so until the horizon moves."""
    changing = list(ids)
    if not changing or not is_set(connection):
        return
    note_arrival(connection)
    former = [tables.former_items, *([tables.due_items] if is_under_way(connection) else [])]
    for some in chunks(changing):
        held = connection.execute(sa.select(tables.items).where(tables.items.c.item_id.in_(some))).mappings().all()
        known = {row["item_id"]: {name: row[name] for name in _FACTS} for row in held}
        unknown = {"title": "", "year": None, "genres": "[]", "author": None, "created": False, "deleted": False}
        rows = [{"item_id": one, "stated": one in known, **known.get(one, unknown)} for one in some]
        for table in former:
            insert_new(connection, table, rows)


def is_under_way(connection: sa.Connection) -> bool:
    """Whether a full build has begun that has not moved the horizon yet."""
    return read_state(connection).due is not None


def would_move(connection: sa.Connection) -> bool:
    """Whether a full build would let anything count that does not yet."""
    state = read_state(connection)
    return state.horizon != state.arrived or waiting(connection) > 0 or count(connection, tables.former_items) > 0


def begin_full_build(connection: sa.Connection) -> None:
    """Say what is due: all that has arrived. One that is under way goes on with what it began with."""
    if is_under_way(connection):
        return
    connection.execute(sa.insert(_d).from_select(COLUMNS, sa.select(*(_a.c[name] for name in COLUMNS))))
    connection.execute(sa.delete(_a))
    set_state(connection, due=tables.state.c.arrived)


def advance(connection: sa.Connection) -> int:
    """Let what is due count, or else all that has arrived; how many rows. Raises the revision if it changes anything."""
    begin_full_build(connection)
    state = read_state(connection)
    rows = count(connection, _d)
    formerly = _former(connection)
    if state.horizon == state.due and not rows and not formerly:
        set_state(connection, due=None)
        return 0
    # First whoever reads an item that changed, as of before and after; the rows themselves come next.
    current = _rows_of(connection, formerly) | _former(connection, due=True)
    changed = [one for one, was in formerly.items() if _counts_as(was) != _counts_as(current.get(one))]
    users = list(connection.scalars(_who_differ()))
    connection.execute(upsert_from(connection, _i, sa.select(*(_d.c[name] for name in COLUMNS))))
    connection.execute(sa.delete(_d))
    _let_items_be_due(connection)
    aside.fold(connection)
    mark_changed(connection, users)
    mark_readers_changed(connection, changed)
    raise_revision(connection, horizon=state.due, due=None)
    sys.audit("lethe.horizon.before_commit")
    return rows


def _let_items_be_due(connection: sa.Connection) -> None:
    names = [column.name for column in tables.due_items.columns]
    connection.execute(sa.delete(tables.former_items))
    connection.execute(sa.insert(tables.former_items).from_select(names, sa.select(tables.due_items)))
    connection.execute(sa.delete(tables.due_items))


def read_again_when_due() -> sa.CompoundSelect[str]:
    """The query of all of whom the full build under way may read what no build before it read: too many rather than too few."""
    i, changed = _i.c, sa.select(tables.former_items.c.item_id)
    readers = sa.select(i.user_id).where(i.item_id.in_(changed))
    return sa.union(sa.select(_d.c.user_id), readers, sa.select(tables.changes.c.user_id))


def items_at_horizon(connection: sa.Connection, due: bool = False) -> tuple[Item, ...]:
    """The items that samples and anchors are made of, by item id: without the deleted ones.

    `due`: as the full build under way knows them.
    """
    formerly = _former(connection, due)
    gone = deleted_at_horizon(connection, due)
    if not formerly and not gone:
        return all_items(connection)
    held = {item.item_id: item for item in all_items(connection)}
    held.update({one: item_of(was) for one, was in formerly.items() if was.stated})
    unknown = gone.union(one for one, was in formerly.items() if not was.stated)
    return tuple(held[one] for one in sorted(held.keys() - unknown))


def as_at_horizon(connection: sa.Connection, items: Mapping[str, Item], due: bool = False) -> dict[str, Item]:
    """Items in the form in which samples know them."""
    formerly = _former(connection, due)
    return {one: item_of(formerly[one]) if one in formerly else item for one, item in items.items()}


def deleted_at_horizon(connection: sa.Connection, due: bool = False) -> frozenset[str]:
    """Ids of the items whose rows count no more."""
    gone = set(connection.scalars(sa.select(tables.items.c.item_id).where(tables.items.c.deleted)))
    formerly = _former(connection, due)
    gone.difference_update(formerly)
    return frozenset(gone.union(one for one, was in formerly.items() if was.deleted))


def served_items(connection: sa.Connection) -> tuple[Item, ...]:
    """The catalog of a generation, by item id: the facts of now. A deleted item is in it while rows of it count."""
    c, was = tables.items.c, tables.former_items.c
    counts_still = c.item_id.in_(sa.select(was.item_id).where(was.stated, ~was.deleted))
    query = sa.select(tables.items).where(sa.or_(~c.deleted, counts_still)).order_by(c.item_id)
    return tuple(map(item_of, connection.execute(query)))


def _former(connection: sa.Connection, due: bool = False) -> dict[str, Row]:
    table = tables.due_items if due else tables.former_items
    return {row.item_id: row for row in connection.execute(sa.select(table))}


def _rows_of(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for some in chunks(ids):
        for row in connection.execute(sa.select(tables.items).where(tables.items.c.item_id.in_(some))):
            found[row.item_id] = row
    return found


def _counts_as(row: Row | None) -> tuple[Any, ...] | None:
    """What a sample can see of an item."""
    if row is None or row.deleted:
        return None
    return row.title, row.year, row.genres, row.author


def _who_differ() -> sa.Select[str]:
    """Those of whose due rows anything counts otherwise than what they replace: a rating alone does not."""
    same = sa.and_(
        _i.c.user_id == _d.c.user_id,
        _i.c.item_id == _d.c.item_id,
        _i.c.liked == _d.c.liked,
        _i.c.timestamp == _d.c.timestamp,
    )
    counted = sa.exists(sa.select(sa.literal(1)).select_from(_i).where(same).correlate(_d))
    return sa.select(_d.c.user_id).where(~counted).distinct()

"""The horizon: up to where the rows and items that arrived make samples and counts.

Before the first full build everything counts. From then on a new row stands in `arrivals`, beside the one that it replaces in
`interactions`, and an item that changes leaves what it was in `former_items`. A full build begins by moving the horizon: what
arrived takes its place in `interactions`, and what items were is dropped. A deletion's build does not, so it reads of everybody
who stays what the build before it read.
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

_a, _i = tables.arrivals, tables.interactions
_FACTS = ("title", "year", "genres", "author", "created", "deleted")


def is_set(connection: sa.Connection) -> bool:
    """Whether a full build has begun, so that what comes now lies beyond it."""
    return read_state(connection).horizon is not None


def waiting(connection: sa.Connection) -> int:
    """How many rows lie beyond the horizon."""
    return count(connection, tables.arrivals)


def note_arrival(connection: sa.Connection) -> None:
    """To be called in each transaction that brings what will count. It makes no cache old: nothing served depends on it."""
    set_state(connection, arrived=tables.state.c.arrived + 1)


def note_former(connection: sa.Connection, ids: Iterable[str]) -> None:
    """Keep what these items are, before they change: samples and anchors know them so until the horizon moves."""
    changing = list(ids)
    if not changing or not is_set(connection):
        return
    note_arrival(connection)
    for some in chunks(changing):
        held = connection.execute(sa.select(tables.items).where(tables.items.c.item_id.in_(some))).mappings().all()
        known = {row["item_id"]: {name: row[name] for name in _FACTS} for row in held}
        unknown = {"title": "", "year": None, "genres": "[]", "author": None, "created": False, "deleted": False}
        rows = [{"item_id": one, "stated": one in known, **known.get(one, unknown)} for one in some]
        insert_new(connection, tables.former_items, rows)


def advance(connection: sa.Connection) -> int:
    """Let everything count that has arrived; how many rows that is. The revision is raised if it changes anything."""
    state = read_state(connection)
    rows = waiting(connection)
    formerly = _former(connection)
    if state.horizon == state.arrived and not rows and not formerly:
        return 0
    # First whoever reads an item that changed, as of before and after; the rows themselves come next.
    current = _rows_of(connection, formerly)
    changed = [one for one, was in formerly.items() if _counts_as(was) != _counts_as(current.get(one))]
    users = list(connection.scalars(_who_differ()))
    connection.execute(upsert_from(connection, _i, sa.select(*(_a.c[name] for name in COLUMNS))))
    connection.execute(sa.delete(_a))
    connection.execute(sa.delete(tables.former_items))
    aside.fold(connection)
    mark_changed(connection, users)
    mark_readers_changed(connection, changed)
    raise_revision(connection, horizon=state.arrived)
    sys.audit("lethe.horizon.before_commit")
    return rows


def items_at_horizon(connection: sa.Connection) -> tuple[Item, ...]:
    """The items that samples and anchors are made of, by item id: without the deleted ones."""
    formerly = _former(connection)
    gone = deleted_at_horizon(connection)
    if not formerly and not gone:
        return all_items(connection)
    held = {item.item_id: item for item in all_items(connection)}
    held.update({one: item_of(was) for one, was in formerly.items() if was.stated})
    unknown = gone.union(one for one, was in formerly.items() if not was.stated)
    return tuple(held[one] for one in sorted(held.keys() - unknown))


def as_at_horizon(connection: sa.Connection, items: Mapping[str, Item]) -> dict[str, Item]:
    """Items in the form in which samples know them."""
    formerly = _former(connection)
    return {one: item_of(formerly[one]) if one in formerly else item for one, item in items.items()}


def deleted_at_horizon(connection: sa.Connection) -> frozenset[str]:
    """Ids of the items whose rows count no more."""
    gone = set(connection.scalars(sa.select(tables.items.c.item_id).where(tables.items.c.deleted)))
    formerly = _former(connection)
    gone.difference_update(formerly)
    return frozenset(gone.union(one for one, was in formerly.items() if was.deleted))


def served_items(connection: sa.Connection) -> tuple[Item, ...]:
    """The catalog of a generation, by item id: the facts of now. A deleted item is in it while rows of it count."""
    c, was = tables.items.c, tables.former_items.c
    counts_still = c.item_id.in_(sa.select(was.item_id).where(was.stated, ~was.deleted))
    query = sa.select(tables.items).where(sa.or_(~c.deleted, counts_still)).order_by(c.item_id)
    return tuple(map(item_of, connection.execute(query)))


def _former(connection: sa.Connection) -> dict[str, Row]:
    return {row.item_id: row for row in connection.execute(sa.select(tables.former_items))}


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
    """Those of whose arrivals anything counts otherwise than what they replace: a rating alone does not."""
    same = sa.and_(
        _i.c.user_id == _a.c.user_id,
        _i.c.item_id == _a.c.item_id,
        _i.c.liked == _a.c.liked,
        _i.c.timestamp == _a.c.timestamp,
    )
    counted = sa.exists(sa.select(sa.literal(1)).select_from(_i).where(same).correlate(_a))
    return sa.select(_a.c.user_id).where(~counted).distinct()

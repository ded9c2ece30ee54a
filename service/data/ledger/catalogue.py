"""The items."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from service.data.ledger import tables
from service.data.ledger.statements import Row, chunks, is_storable
from service.records import Item


def item_of(row: Row) -> Item:
    return Item(row.item_id, row.title, row.year, _genres(row.genres), row.author, bool(row.created))


@lru_cache(maxsize=4_096)
def _genres(stored: str) -> tuple[str, ...]:
    # A catalogue has few combinations, and every build reads all of it.
    return tuple(json.loads(stored))


def row_of(item: Item) -> dict[str, Any]:
    """The reverse of `item_of`."""
    genres = json.dumps(list(item.genres), ensure_ascii=False)
    facts = {"title": item.title, "year": item.year, "genres": genres, "author": item.author}
    return {"item_id": item.item_id, **facts, "created": item.created}


def all_items(connection: sa.Connection) -> tuple[Item, ...]:
    """By item id."""
    return tuple(map(item_of, connection.execute(sa.select(tables.items).order_by(tables.items.c.item_id))))


def all_ids(connection: sa.Connection) -> frozenset[str]:
    return frozenset(connection.scalars(sa.select(tables.items.c.item_id)))


def items_by_id(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Item]:
    """Id -> item; unknown ids are absent."""
    found: dict[str, Item] = {}
    for chunk in chunks({item_id for item_id in ids if is_storable(item_id)}):
        rows = connection.execute(sa.select(tables.items).where(tables.items.c.item_id.in_(chunk)))
        found |= {item.item_id: item for item in map(item_of, rows)}
    return found


def created_of(connection: sa.Connection, user_id: str) -> list[str]:
    """Ids of the created items that this user's rows name."""
    c = tables.items.c
    theirs = sa.select(c.item_id).join(tables.interactions, tables.interactions.c.item_id == c.item_id)
    return list(connection.scalars(theirs.where(tables.interactions.c.user_id == user_id, c.created)))


def drop_unnamed(connection: sa.Connection, created: Iterable[str]) -> None:
    """Delete those of these created items that no row names any more."""
    named = tables.interactions.c.item_id
    for chunk in chunks(created):
        # No index leads from an item to its rows: one reading of the interactions for all of them, and none as a rule.
        held = set(connection.scalars(sa.select(named).where(named.in_(chunk)).distinct()))
        connection.execute(sa.delete(tables.items).where(tables.items.c.item_id.in_(set(chunk) - held)))


def count_unnamed(connection: sa.Connection) -> int:
    """How many created items are held though no row names them: if any, a deletion has left a title behind."""
    c = tables.items.c
    created = set(connection.scalars(sa.select(c.item_id).where(c.created)))
    if not created:
        return 0
    return len(created.difference(connection.scalars(sa.select(tables.interactions.c.item_id).distinct())))


def items_named(connection: sa.Connection, names: Iterable[str]) -> dict[str, Item]:
    """Name -> item: that with this id, or else of those with this title the one with the smallest id."""
    by_id: dict[str, Item] = {}
    by_title: dict[str, Item] = {}
    c = tables.items.c
    for chunk in chunks({name for name in names if is_storable(name)}):
        asked = set(chunk)
        either = sa.select(tables.items).where(sa.or_(c.item_id.in_(chunk), c.title.in_(chunk)))
        for item in map(item_of, connection.execute(either.order_by(c.item_id))):
            if item.item_id in asked:
                by_id[item.item_id] = item
            if item.title in asked:
                by_title.setdefault(item.title, item)
    return by_title | by_id

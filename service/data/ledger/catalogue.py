"""The items."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from service.data.ledger import tables
from service.data.ledger.statements import Row, chunks, is_storable
from service.records import Item


def item_of(row: Row) -> Item:
    return Item(row.item_id, row.title, row.year, tuple(json.loads(row.genres)), row.author)


def row_of(item: Item) -> dict[str, Any]:
    """The reverse of `item_of`."""
    genres = json.dumps(list(item.genres), ensure_ascii=False)
    return {"item_id": item.item_id, "title": item.title, "year": item.year, "genres": genres, "author": item.author}


def all_items(connection: sa.Connection) -> tuple[Item, ...]:
    """By item id."""
    return tuple(map(item_of, connection.execute(sa.select(tables.items).order_by(tables.items.c.item_id))))


def items_by_id(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Item]:
    return _items_where(connection, tables.items.c.item_id, ids, lambda item: item.item_id)


def items_by_title(connection: sa.Connection, titles: Iterable[str]) -> dict[str, Item]:
    return _items_where(connection, tables.items.c.title, titles, lambda item: item.title)


def _items_where(
    connection: sa.Connection, column: sa.Column[Any], values: Iterable[str], name: Callable[[Item], str]
) -> dict[str, Item]:
    found: dict[str, Item] = {}
    by_id = sa.select(tables.items).order_by(tables.items.c.item_id)
    for chunk in chunks({value for value in values if is_storable(value)}):
        for item in map(item_of, connection.execute(by_id.where(column.in_(chunk)))):
            found.setdefault(name(item), item)
    return found

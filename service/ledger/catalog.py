"""The items."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from service.data.titles import plain_title, year_in
from service.ledger import aside, tables
from service.ledger.rows import TABLES, named_items
from service.ledger.state import set_state
from service.ledger.statements import Row, chunks, is_storable
from service.records import ById, ByTitle, Item, ItemName, Key, KeyRefused, key_of


def item_of(row: Row) -> Item:
    return Item(row.item_id, row.title, row.year, _genres(row.genres), row.author, bool(row.created))


@lru_cache(maxsize=4_096)
def _genres(stored: str) -> tuple[str, ...]:
    # A catalog has few combinations, and every build reads all of it.
    return tuple(json.loads(stored))


def row_of(item: Item) -> dict[str, Any]:
    """The reverse of `item_of`."""
    genres = json.dumps(list(item.genres), ensure_ascii=False)
    facts = {"title": item.title, "year": item.year, "genres": genres, "author": item.author}
    return {"item_id": item.item_id, **facts, "created": item.created, "plain_title": plain_title(item.title)}


def all_items(connection: sa.Connection) -> tuple[Item, ...]:
    """By item id."""
    return tuple(map(item_of, connection.execute(sa.select(tables.items).order_by(tables.items.c.item_id))))


def all_ids(connection: sa.Connection) -> frozenset[str]:
    return frozenset(connection.scalars(sa.select(tables.items.c.item_id)))


def known_ids(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    """Those of these ids that items have."""
    c = tables.items.c.item_id
    return {one for some in chunks(ids) for one in connection.scalars(sa.select(c).where(c.in_(some)))}


def items_by_id(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Item]:
    """Id -> item; unknown ids are absent."""
    found: dict[str, Item] = {}
    for chunk in chunks({item_id for item_id in ids if is_storable(item_id)}):
        rows = connection.execute(sa.select(tables.items).where(tables.items.c.item_id.in_(chunk)))
        found |= {item.item_id: item for item in map(item_of, rows)}
    return found


def created_of(connection: sa.Connection, user_id: str) -> list[str]:
    """Ids of the created items that this user's rows name."""
    named = items_by_id(connection, aside.items_held(connection, user_id))
    return [one for one, item in named.items() if item.created]


def drop_unnamed(connection: sa.Connection, created: Iterable[str]) -> None:
    """Delete those of these created items that no row names any more; with rows that are set aside, they are kept there."""
    chosen = list(created)
    gone = set(chosen) - named_items(connection, chosen)
    aside.keep_items(connection, gone)
    if gone:  # whoever keeps the catalog in memory must not keep these titles
        set_state(connection, availability=tables.state.c.availability + 1)
    for chunk in chunks(gone):
        _drop_shown(connection, chunk)
        for table in (tables.items, tables.former_items, tables.due_items):
            connection.execute(sa.delete(table).where(table.c.item_id.in_(chunk)))


def _drop_shown(connection: sa.Connection, gone: list[str]) -> None:
    """Take items that are dropped out of everybody's impressions: what they are called is of who had named them."""
    shown, kept = tables.shown_items.c, tables.set_aside.c
    same = sa.and_(kept.user_id == shown.user_id, kept.item_id == shown.item_id)
    is_kept = sa.exists(
        sa.select(sa.literal(1)).select_from(tables.set_aside).where(same).correlate(tables.shown_items)
    )
    query = sa.delete(tables.shown_items).where(shown.item_id.in_(gone), ~is_kept).returning(shown.user_id)
    users = set(connection.scalars(query))
    one = tables.impressions.c
    same_one = sa.and_(one.user_id == shown.user_id, one.recommendation_id == shown.recommendation_id)
    left = sa.exists(
        sa.select(sa.literal(1)).select_from(tables.shown_items).where(same_one).correlate(tables.impressions)
    )
    for some in chunks(users):
        connection.execute(sa.delete(tables.impressions).where(one.user_id.in_(some), ~left))


def count_unnamed(connection: sa.Connection) -> int:
    """How many created items are held though no row names them: if any, a deletion has left a title behind."""
    c = tables.items.c
    created = set(connection.scalars(sa.select(c.item_id).where(c.created)))
    if not created:
        return 0
    for table in TABLES:
        created.difference_update(connection.scalars(sa.select(table.c.item_id).distinct()))
    return len(created)


def items_meant(connection: sa.Connection, names: Iterable[ItemName]) -> dict[ItemName, list[Item]]:
    """Name -> the items that it may mean, by their ids: as `all_named`, or else all whose titles say the same (`plain_title`).

    A year at a title's end must be the item's, if it has one. Unknown names are absent.
    """
    asked = set(names)
    exactly = all_named(connection, asked)
    titles = {name: title for name in asked - exactly.keys() if (title := _title_in(name)) is not None}
    plain = {name: plain_title(title) for name, title in titles.items()}
    alike = _items_with(connection, tables.items.c.plain_title, filter(None, plain.values()))
    years = {name: year_in(title) for name, title in titles.items()}
    loosely = {name: [i for i in alike.get(plain[name], ()) if _is_of(i, years[name])] for name in titles}
    return exactly | {name: items for name, items in loosely.items() if items}


def all_named(connection: sa.Connection, names: Iterable[ItemName]) -> dict[ItemName, list[Item]]:
    """Name -> the items that it may mean, by their ids: that with this id, or else all with this title.

    Unknown names are absent.
    """
    asked = set(names)
    ids = {name: key for name in asked if (key := id_in(name)) is not None}
    known = items_by_id(connection, ids.values())
    by_id = {name: [known[key]] for name, key in ids.items() if key in known}
    titles = {name: title for name in asked - by_id.keys() if (title := _title_in(name)) is not None}
    titled = _items_with(connection, tables.items.c.title, titles.values())
    return by_id | {name: titled[title] for name, title in titles.items() if title in titled}


def id_in(name: ItemName) -> Key | None:
    """The id that is named, if this may be one."""
    try:
        return None if isinstance(name, ByTitle) else key_of(name.item_id if isinstance(name, ById) else name)
    except KeyRefused:
        return None


def _title_in(name: ItemName) -> str | None:
    title = name.title if isinstance(name, ByTitle) else name
    return title if isinstance(title, str) and is_storable(title) else None


def _items_with(connection: sa.Connection, column: sa.Column[str], values: Iterable[str]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for chunk in chunks(set(values)):
        rows = connection.execute(sa.select(tables.items).where(column.in_(chunk)).order_by(tables.items.c.item_id))
        for row in rows:
            found.setdefault(row._mapping[column], []).append(item_of(row))
    return found


def _is_of(item: Item, year: int | None) -> bool:
    own = item.year if item.year is not None else year_in(item.title)
    return year is None or own is None or own == year

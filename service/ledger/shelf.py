"""The catalog as it is kept over HTTP: items come, change, are hidden and leave, one by one.

Facts that samples see (title, year, genres, author) and whether an item is there count from the next full build on; what is
served knows them from the next generation on, which has the same adapters and memories. What may be shown counts at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from service.errors import InvalidInput, UnknownItem
from service.ledger import horizon, tables
from service.ledger.catalog import item_of, row_of
from service.ledger.placements import mark_readers_changed
from service.ledger.state import raise_revision, read_state, set_state
from service.ledger.statements import Row, chunks, is_storable, keyed, upsert
from service.records import CatalogEntry

_c = tables.items.c


class ItemOutcome(StrEnum):
    """What became of an item that was given."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


def entry_of(row: Row) -> CatalogEntry:
    """A row of `items`."""
    return CatalogEntry(
        item=item_of(row),
        description=row.description,
        attributes={} if row.attributes is None else json.loads(row.attributes),
        hidden=bool(row.hidden),
        available_from=row.available_from,
        available_until=row.available_until,
        deleted=bool(row.deleted),
    )


def read_entries(connection: sa.Connection, ids: Iterable[str]) -> dict[str, CatalogEntry]:
    """Id -> entry, deleted ones too; unknown ids are absent."""
    found: dict[str, CatalogEntry] = {}
    for some in chunks(ids):
        rows = connection.execute(sa.select(tables.items).where(_c.item_id.in_(some)))
        found |= {row.item_id: entry_of(row) for row in rows}
    return found


def read_entry(connection: sa.Connection, item_id: str) -> CatalogEntry:
    """Raises UnknownItem, also for an item that was deleted."""
    key = keyed(item_id, "item_id")
    found = read_entries(connection, [key])
    if key not in found or found[key].deleted:
        raise UnknownItem("no item of the catalog has this id")
    return found[key]


def read_page(connection: sa.Connection, after: str | None, limit: int) -> list[CatalogEntry]:
    """The entries that are not deleted, by item id, from the first behind `after` on."""
    query = sa.select(tables.items).where(~_c.deleted).order_by(_c.item_id).limit(limit)
    rows = connection.execute(query if after is None else query.where(_c.item_id > after))
    return [entry_of(row) for row in rows]


def read_all(connection: sa.Connection) -> tuple[int, tuple[CatalogEntry, ...]]:
    """The revision of what may be shown, and all entries."""
    entries = map(entry_of, connection.execute(sa.select(tables.items).order_by(_c.item_id)))
    return int(read_state(connection).availability), tuple(entries)


def put(connection: sa.Connection, entries: Sequence[CatalogEntry]) -> list[ItemOutcome]:
    """State these entries as they are, each replacing what is held of it; their outcomes in order.

    Raises InvalidInput for an id or a text that cannot be stored, and for an id that is given twice.
    """
    ids = [keyed(entry.item.item_id, "item_id") for entry in entries]
    if len(set(ids)) < len(ids):
        raise InvalidInput("two items have one id")
    held = read_entries(connection, ids)
    changed = [entry for entry in entries if held.get(entry.item.item_id) != entry]
    if changed:
        _write(connection, changed, held)
    return [_outcome(entry, held.get(entry.item.item_id)) for entry in entries]


def delete(connection: sa.Connection, item_id: str) -> None:
    """Take an item out of the catalog; rows that name it stay. Raises UnknownItem."""
    read_entry(connection, item_id)
    key = keyed(item_id, "item_id")
    horizon.note_former(connection, [key])
    connection.execute(sa.update(tables.items).where(_c.item_id == key).values(deleted=True))
    _tell(connection, [key])


def _write(connection: sa.Connection, changed: Sequence[CatalogEntry], held: dict[str, CatalogEntry]) -> None:
    rows = [_row(entry) for entry in changed]
    if not all(is_storable(value) for row in rows for value in row.values() if isinstance(value, str)):
        raise InvalidInput("a text of an item holds a character that cannot be stored (NUL or a lone surrogate)")
    facts = [entry.item.item_id for entry in changed if _facts(entry) != _facts(held.get(entry.item.item_id))]
    horizon.note_former(connection, facts)
    upsert(connection, tables.items, rows)
    _tell(connection, facts)


def _tell(connection: sa.Connection, facts: Sequence[str]) -> None:
    """Let replicas read anew what may be shown, and where facts of items changed, workers make the next generation."""
    set_state(connection, availability=tables.state.c.availability + 1)
    if not facts:
        return
    if not horizon.is_set(connection):
        mark_readers_changed(connection, facts)
    raise_revision(connection, catalog=tables.state.c.catalog + 1)


def _facts(entry: CatalogEntry | None) -> tuple[object, ...] | None:
    if entry is None or entry.deleted:
        return None
    return entry.item.title, entry.item.year, entry.item.genres, entry.item.author, entry.item.created


def _row(entry: CatalogEntry) -> dict[str, Any]:
    attributes = json.dumps(dict(entry.attributes), ensure_ascii=False, sort_keys=True) if entry.attributes else None
    return {
        **row_of(entry.item),
        "description": entry.description,
        "attributes": attributes,
        "hidden": entry.hidden,
        "available_from": entry.available_from,
        "available_until": entry.available_until,
        "deleted": entry.deleted,
    }


def _outcome(entry: CatalogEntry, held: CatalogEntry | None) -> ItemOutcome:
    if held is None or held.deleted:
        return ItemOutcome.CREATED
    return ItemOutcome.UNCHANGED if held == entry else ItemOutcome.CHANGED

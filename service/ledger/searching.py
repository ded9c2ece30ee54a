"""Whether a text that should be gone still stands in the database: as a whole value, or between delimiters in a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from service.data.traces import is_delimited, is_distinctive
from service.ledger import tables
from service.ledger.rows import TABLES, named_items
from service.ledger.statements import count

_CLOSED = {"kind", "scope", "state"}  # their few words are ours
_LABELS = {"source"}  # of files and clients: another name space, as item ids are; a person's rows go with theirs
_DERIVED = {"plain_title"}  # of a column that is searched, and goes with it
_PEOPLE = {"user_id", "unit_key"}  # whole ids, and nothing else


@dataclass(frozen=True, slots=True)
class ColumnSearch:
    """What one text was compared with, and where it stands. Item ids are another name space than users' ids."""

    values: int  # that were compared
    found: dict[str, int]  # table.column -> rows that hold it
    item_ids: int  # rows that hold it as the id of an item that the catalog has: no trace of a person
    longer: int  # values that hold it inside a longer text


def search_columns(connection: sa.Connection, text: str) -> ColumnSearch:
    """Compare a text with every value of every column that could hold it."""
    values, longer, found = 0, 0, {}
    for table in tables.metadata.sorted_tables:
        rows = count(connection, table)
        for column in _columns(table, text):
            values += rows
            if held := _whole(connection, column, text):
                found[f"{table.name}.{column.name}"] = held
            inside, delimited = _inside(connection, column, text)
            longer += inside
            if delimited:
                name = f"{table.name}.{column.name}"
                found[name] = found.get(name, 0) + delimited
    item_ids = sum(
        _whole(connection, table.c.item_id, text)
        for table in (tables.items, *TABLES, tables.set_aside, tables.shown_items)
    )
    if item_ids and found.get("items.title") == 1 and _is_named_item(connection, text):
        del found["items.title"]  # an item that has no other title than its id, and that somebody's rows name
    return ColumnSearch(values, found, item_ids, longer)


def _columns(table: sa.Table, text: str) -> Iterator[sa.Column[str]]:
    for column in table.c:
        if not isinstance(column.type, sa.Text) or column.name in {"item_id", *_CLOSED, *_LABELS, *_DERIVED}:
            continue
        # Numbers of shards, paths and the like are short: a short id would be found among them by chance.
        if column.name in (*_PEOPLE, "title") or is_distinctive(text):
            yield column


def _whole(connection: sa.Connection, column: sa.Column[str], text: str) -> int:
    return int(connection.scalar(sa.select(sa.func.count()).where(column == text)) or 0)


def _inside(connection: sa.Connection, column: sa.Column[str], text: str) -> tuple[int, int]:
    """How many longer values hold the text, and how many of these hold it between delimiters."""
    position = sa.func.instr if connection.dialect.name == "sqlite" else sa.func.strpos
    longer = sa.and_(position(column, text) > 0, column != text)
    if column.name in (*_PEOPLE, "title"):
        return int(connection.scalar(sa.select(sa.func.count()).where(longer)) or 0), 0
    documents = connection.scalars(sa.select(column).where(longer).execution_options(yield_per=1_000))
    held = [is_delimited(document, text) for document in documents]
    return len(held), sum(held)


def _is_named_item(connection: sa.Connection, text: str) -> bool:
    own = sa.and_(tables.items.c.item_id == text, tables.items.c.title == text)
    stated = connection.scalar(sa.select(sa.func.count()).select_from(tables.items).where(own))
    return bool(stated) and bool(named_items(connection, [text]))

"""What SQLite and PostgreSQL both take: keys and storable text, id lists of any length, and inserts that meet known keys."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from service.errors import InvalidInput
from service.records import Key, KeyRefused, key_of

Row = sa.Row[Any]

_CHUNK = 500  # ids per statement: below SQLite's limit on bound variables
_T = TypeVar("_T")


def is_storable(text: str) -> bool:
    """PostgreSQL takes no NUL, and neither database a lone surrogate."""
    # Most ids are plain, and there may be millions.
    return "\0" not in text and (text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text))


def keyed(text: str, name: str = "user_id") -> Key:
    """The key that the text stands for. Raises InvalidInput, which names the field."""
    try:
        return key_of(text)
    except KeyRefused as error:
        raise InvalidInput(f"{name} {error}") from None


def chunks(values: Iterable[_T]) -> Iterator[list[_T]]:
    """The values in lists that are short enough for one statement."""
    chosen = list(values)
    for start in range(0, len(chosen), _CHUNK):
        yield chosen[start : start + _CHUNK]


def pairs_among(
    connection: sa.Connection, first: sa.Column[str], second: sa.Column[str], pairs: Collection[tuple[str, str]]
) -> sa.ColumnElement[bool]:
    """The condition that two columns, which begin a key, hold one of these pairs, of which there may be any number.

    They are one parameter, so that the statement is compiled once; and the rows of a query, as SQLite looks for those by the
    key and reads the whole table for those of a list.
    """
    if connection.dialect.name == "sqlite":
        each = sa.func.json_each(json.dumps([list(pair) for pair in pairs])).table_valued("value", name="pairs")
        listed = sa.select(*(sa.func.json_extract(each.c.value, place) for place in ("$[0]", "$[1]")))
    else:
        ones, others = ([pair[at] for pair in pairs] for at in (0, 1))
        texts = postgresql.ARRAY(sa.Text)
        both = sa.func.unnest(sa.cast(ones, texts), sa.cast(others, texts)).table_valued("one", "other", name="pairs")
        listed = sa.select(*both.render_derived().c)
    return sa.tuple_(first, second).in_(listed)


def count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose key is not there yet."""
    if rows:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), rows)


def upsert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows; of those with a known key the given columns are replaced."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    statement = _insert(connection, table)
    replaced = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    merge = statement.on_conflict_do_update(index_elements=keys, set_=replaced)
    # Straight to the driver: SQLAlchemy takes longer over the parameters of a row than SQLite over the row.
    compiled = merge.compile(dialect=connection.dialect, column_keys=list(rows[0]))
    named = compiled.positiontup
    given = rows if named is None else [tuple(row[name] for name in named) for row in rows]
    connection.exec_driver_sql(compiled.string, given)


def upsert_from(connection: sa.Connection, table: sa.Table, rows: sa.Select[Any]) -> sa.Insert:
    """The statement that inserts what a query finds (columns by their names), replacing those of the same key."""
    keys = [column.name for column in table.primary_key]
    names = [column.name for column in rows.selected_columns]
    # With a condition, or SQLite takes what follows for a part of the query.
    statement = _insert(connection, table).from_select(names, rows.where(sa.true()))
    replaced = {name: statement.excluded[name] for name in names if name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=replaced)


def _insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)

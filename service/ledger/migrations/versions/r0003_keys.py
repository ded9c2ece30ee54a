"""Deletions say what they found; ids that were stored before ids were normalized become normalized, and one where they meet."""

import unicodedata
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_metadata = sa.MetaData()
_items = sa.Table(
    "items",
    _metadata,
    sa.Column("item_id", _Text, primary_key=True),
    sa.Column("title", _Text),
    sa.Column("year", sa.Integer),
    sa.Column("genres", _Text),
    sa.Column("author", _Text),
    sa.Column("created", sa.Boolean),
)
_interactions = sa.Table(
    "interactions",
    _metadata,
    sa.Column("user_id", _Text, primary_key=True),
    sa.Column("item_id", _Text, primary_key=True),
    sa.Column("liked", sa.Boolean),
    sa.Column("timestamp", sa.BigInteger),
    sa.Column("rating", sa.Double),
)
_exposures = sa.Table(
    "exposures",
    _metadata,
    sa.Column("kind", _Text, primary_key=True),
    sa.Column("key", _Text, primary_key=True),
    sa.Column("user_id", _Text, primary_key=True),
    sa.Column("shard", _Text),
    sa.Column("samples", sa.BigInteger),
)
_changes = sa.Table(
    "changes", _metadata, sa.Column("user_id", _Text, primary_key=True), sa.Column("revision", sa.BigInteger)
)
_placements = sa.Table("placements", _metadata, sa.Column("user_id", _Text))
_memberships = sa.Table("memberships", _metadata, sa.Column("user_id", _Text))
_state = sa.Table("state", _metadata, sa.Column("revision", sa.BigInteger))


def upgrade() -> None:
    """Add the columns, and respell what was stored in another form."""
    op.add_column("forget_requests", sa.Column("outcome", _Text))
    op.add_column("forget_requests", sa.Column("items", _Text))
    connection = op.get_bind()
    users, items = _other_spellings(connection, _interactions.c.user_id), _other_spellings(connection, _items.c.item_id)
    exposed = _other_spellings(connection, _exposures.c.user_id)
    if not (users or items or exposed):
        return
    _add_items(connection, items)
    readers = _respell_interactions(connection, users, items)
    _delete_items(connection, items)
    _respell_exposures(connection, exposed)
    _read_again(connection, users.keys() | exposed.keys(), readers)


def _other_spellings(connection: sa.Connection, column: sa.Column[str]) -> dict[str, str]:
    """Ids that are stored in another form than the one that stands for all -> that one."""
    held = connection.scalars(sa.select(column).distinct())
    return {text: key for text in held if not text.isascii() and (key := _key(text)) != text}


def _key(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _add_items(connection: sa.Connection, items: dict[str, str]) -> None:
    for old, new in sorted(items.items()):
        if connection.execute(sa.select(_items.c.item_id).where(_items.c.item_id == new)).first() is None:
            row = connection.execute(sa.select(_items).where(_items.c.item_id == old)).mappings().one()
            connection.execute(sa.insert(_items).values(dict(row) | {"item_id": new}))


def _delete_items(connection: sa.Connection, items: dict[str, str]) -> None:
    for old in items:
        connection.execute(sa.delete(_items).where(_items.c.item_id == old))


def _respell_interactions(connection: sa.Connection, users: dict[str, str], items: dict[str, str]) -> set[str]:
    """Where two rows become one, the newest stays. Returns whose rows are others now."""
    c, changed = _interactions.c, set[str]()
    for column, ids in ((c.user_id, users), (c.item_id, items)):
        for old in ids:
            for row in connection.execute(sa.select(_interactions).where(column == old)).mappings().all():
                _move(connection, dict(row), {column.name: ids[old]})
                changed.add(users.get(row["user_id"], row["user_id"]))
    return changed


def _move(connection: sa.Connection, row: dict[str, Any], respelled: dict[str, str]) -> None:
    c, new = _interactions.c, row | respelled
    connection.execute(sa.delete(_interactions).where(c.user_id == row["user_id"], c.item_id == row["item_id"]))
    there = sa.and_(c.user_id == new["user_id"], c.item_id == new["item_id"])
    known = connection.execute(sa.select(_interactions).where(there)).mappings().first()
    if known is None:
        connection.execute(sa.insert(_interactions).values(new))
    elif _rank(new) > _rank(dict(known)):
        connection.execute(sa.update(_interactions).where(there).values(new))


def _rank(row: dict[str, Any]) -> tuple[int, float, bool]:
    return row["timestamp"], float("-inf") if row["rating"] is None else row["rating"], bool(row["liked"])


def _respell_exposures(connection: sa.Connection, users: dict[str, str]) -> None:
    c = _exposures.c
    for old, new in users.items():
        for row in connection.execute(sa.select(_exposures).where(c.user_id == old)).mappings().all():
            there = sa.and_(c.kind == row["kind"], c.key == row["key"], c.user_id == new)
            added = sa.update(_exposures).where(there).values(samples=c.samples + row["samples"])
            if not connection.execute(added).rowcount:
                connection.execute(sa.insert(_exposures).values(dict(row) | {"user_id": new}))
        connection.execute(sa.delete(_exposures).where(c.user_id == old))


def _read_again(connection: sa.Connection, old: set[str], readers: set[str]) -> None:
    """What builds remember of these people is of rows that are others now."""
    for table in (_placements, _changes, _memberships):
        for user in old | readers:
            connection.execute(sa.delete(table).where(table.c.user_id == user))
    connection.execute(sa.update(_state).values(revision=_state.c.revision + 1))
    revision = connection.scalar(sa.select(_state.c.revision))
    for user in sorted(readers):
        connection.execute(sa.insert(_changes).values(user_id=user, revision=revision))

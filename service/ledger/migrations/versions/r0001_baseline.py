"""The ledger of 2026-11, before its schema had a version: makes what tables of it are missing."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
metadata = sa.MetaData()  # as it was then: not the tables of today


def upgrade() -> None:
    """Make what is missing; a table that is there was checked before."""
    metadata.create_all(op.get_bind())


def _table(name: str, *columns: sa.Column[Any], indexed: str | None = None) -> None:
    indexes = [sa.Index(f"{name}_{indexed}", indexed)] if indexed else []
    sa.Table(name, metadata, *columns, *indexes, sqlite_with_rowid=False)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, _Text, primary_key=True)


def _text(name: str, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, _Text, nullable=nullable)


def _whole(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


_table(
    "items",
    _key("item_id"),
    _text("title"),
    sa.Column("year", sa.Integer),
    _text("genres"),
    _text("author", nullable=True),
    indexed="title",
)
_table(
    "interactions",
    _key("user_id"),
    sa.Column("item_id", _Text, sa.ForeignKey("items.item_id"), primary_key=True),
    sa.Column("liked", sa.Boolean, nullable=False),
    _whole("timestamp"),
)
_table(
    "state",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    _whole("fence"),
    _whole("revision"),
    _text("generation", nullable=True),
    _whole("published_fence"),
    _text("published", nullable=True),
    _whole("shards_training"),
    _text("noun", nullable=True),
    _text("outline", nullable=True),
)
_table(
    "placements",
    _key("path"),
    _key("unit_key"),
    _text("user_id"),
    _whole("samples"),
    _text("digest"),
    indexed="user_id",
)
_table("changes", _key("user_id"), _whole("revision"))
_table(
    "memberships",
    _key("partition_digest"),
    _key("unit_key"),
    _text("user_id"),
    _text("shard"),
    indexed="user_id",
)
_table(
    "exposures",
    _key("kind"),
    _key("key"),
    _key("user_id"),
    _text("shard", nullable=True),
    _whole("samples"),
    indexed="user_id",
)
_table(
    "forget_requests",
    _key("request_id"),
    _text("subject"),
    _text("scope"),
    _text("state"),
    _whole("fence"),
    _text("affected_shards"),
    _text("shard_names"),
    _text("generation_before", nullable=True),
    _whole("erased_interactions"),
    _whole("masked_rows"),
    _whole("masked_samples"),
    sa.Column("accepted_at", sa.Double, nullable=False),
    sa.Column("masked_at", sa.Double, nullable=False),
    sa.Column("retraining_at", sa.Double),
    sa.Column("completed_at", sa.Double),
    _whole("attempts"),
    _text("error", nullable=True),
    _text("receipt", nullable=True),
    indexed="subject",
)
_table("idempotency", _key("key_hash"), _text("content_hash"), _text("request_id"))
_table("masks", _key("kind"), _key("key"), _key("request_id"), indexed="request_id")
_table("tombstones", _key("subject"), _key("grave"), _text("request_id"), _whole("fence"))

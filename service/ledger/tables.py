"""The tables, as both databases hold them. Whoever changes one adds a revision to `migrations` that does the same."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

WHOLE_USER = ""  # the scope hash of everything of a user

# Byte order on both databases, as Python sorts: other collations would give other histories.
_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
metadata = sa.MetaData()


def _table(name: str, *columns: sa.Column[Any], indexed: tuple[str, ...] = ()) -> sa.Table:
    indexes = [sa.Index(f"{name}_{column}", column) for column in indexed]
    return sa.Table(name, metadata, *columns, *indexes, sqlite_with_rowid=False)


def _key(name: str, key: str | None = None) -> sa.Column[str]:
    return sa.Column(name, _Text, key=key or name, primary_key=True)


def _text(name: str, nullable: bool = False, key: str | None = None) -> sa.Column[str]:
    """`key`: how the code calls a column whose name in the database is older than the word for it."""
    return sa.Column(name, _Text, key=key or name, nullable=nullable)


def _whole(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, default=0)


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


def _rows(name: str) -> sa.Table:
    """A table of rows of people."""
    return _table(
        name,
        _key("user_id"),
        sa.Column("item_id", _Text, sa.ForeignKey("items.item_id"), primary_key=True),
        sa.Column("liked", sa.Boolean, nullable=False),
        _whole("timestamp"),
        sa.Column("rating", sa.Double),  # as it was stated, if one was
        _text("source", nullable=True),  # label of the file or client that the row came from, if it gave one
    )


def _facts(name: str) -> sa.Table:
    """A table of what items were; not `stated`: of an item that was not there."""
    return _table(
        name,
        _key("item_id"),
        _flag("stated"),
        _text("title"),
        sa.Column("year", sa.Integer),
        _text("genres"),
        _text("author", nullable=True),
        _flag("created"),
        _flag("deleted"),
    )


items = _table(
    "items",
    _key("item_id"),
    _text("title"),
    sa.Column("year", sa.Integer),
    _text("genres"),
    _text("author", nullable=True),
    # Made by an import because a row named it; lives as long as a row does.
    _flag("created"),
    _text("plain_title", nullable=True),  # as `plain_title` makes it, by which requests may name an item
    _text("description", nullable=True),
    _text("attributes", nullable=True),  # a flat JSON object
    _flag("hidden"),
    sa.Column("available_from", sa.Double),  # seconds since the epoch
    sa.Column("available_until", sa.Double),
    _flag("deleted"),  # nobody gets it any more; the rows that name it stay, and count until the horizon moves
    indexed=("title", "plain_title"),
)
# Items that changed beyond the horizon, as samples and anchors know them until it moves; not `stated`: they know it not at all.
former_items = _facts("former_items")
# Items that changed since the full build under way began, as that build knows them.
due_items = _facts("due_items")
interactions = _rows("interactions")
# Rows beyond the horizon: of each user and item the newest. People's histories know them; samples and counts do not yet.
arrivals = _rows("arrivals")
# Those of them that the full build under way lets count: what had arrived when it began.
due = _rows("due")
# Rows of which nothing is made: of people whose data is restricted, and what a deletion would erase if it were not held.
set_aside = _table(
    "set_aside",
    _key("user_id"),
    _key("request_id"),  # of the deletion that erases it when the hold is released; empty: restricted
    sa.Column("beyond", sa.Boolean, primary_key=True),  # the horizon: it goes back to `arrivals`
    _key("item_id"),  # which `items` may lack, if nobody else names it
    sa.Column("liked", sa.Boolean, nullable=False),
    _whole("timestamp"),
    sa.Column("rating", sa.Double),
    _text("source", nullable=True),
    _text("item", nullable=True),  # its row of `items`, if that went with these rows: JSON
    _text("former_item", nullable=True),  # its row of `former_items`
)
restraints = _table(
    "restraints",
    _key("subject"),
    _key("kind"),
    _text("restraint_id"),  # by which the tombstone file knows it
    _text("ground", nullable=True),
    sa.Column("since", sa.Double, nullable=False),
    _whole("fence"),
)
# Events that were taken, by a keyed hash of their ids, so that one that is sent again is known.
events = _table(
    "events",
    _key("user_id"),
    _key("event_hash"),
    _text("item_id"),
    sa.Column("accepted_at", sa.Double, nullable=False),
    indexed=("accepted_at",),
)
# What somebody was shown, and what came of it. No generation is made of it.
impressions = _table(
    "impressions",
    _key("user_id"),
    _key("recommendation_id"),
    _text("generation"),
    sa.Column("shown_at", sa.Double, nullable=False),
    indexed=("shown_at",),
)
shown_items = _table(
    "shown_items",
    _key("user_id"),
    _key("recommendation_id"),
    _key("item_id"),
    _flag("attributed"),  # an event of the person named the answer and this item
    _flag("liked"),  # and one of these said that the item is liked
    _text("request_id", nullable=True),  # null: in use; else as in `set_aside`
)
state = _table(
    "state",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    _whole("fence"),
    _whole("revision"),
    _text("generation", nullable=True),
    _whole("published_fence"),
    _text("published", nullable=True),
    _whole("shards_training"),
    _text("noun", nullable=True, key="item_type"),
    _text("outline", nullable=True, key="fingerprint"),
    _text("secret_check", nullable=True),
    _text("oldest_schema", nullable=True),  # the oldest version of this schema whose processes may write; null: any
    _counter("arrived"),  # grows with every transaction that brings rows
    sa.Column("horizon", sa.BigInteger),  # `arrived` as it was when the last full build began; null: none has yet
    sa.Column("due", sa.BigInteger),  # the horizon that the full build under way will set; null: there is none
    _counter("catalog"),  # grows with every change of the catalog's facts
    _counter("availability"),  # grows with every change of what may be shown
    _counter("restrained"),  # the fence as it was when rows were set aside, or put back, last
)
placements = _table(
    "placements",
    _key("path"),  # first, so that a build finds the units in the order of the tree
    _key("unit_key"),
    _text("user_id"),
    _whole("samples"),
    _text("digest"),
    indexed=("user_id",),
)
changes = _table("changes", _key("user_id"), _whole("revision"))  # whose rows no build has remembered since
memberships = _table(
    "memberships", _key("partition_digest"), _key("unit_key"), _text("user_id"), _text("shard"), indexed=("user_id",)
)
lineage = _table(
    "exposures",
    _key("kind"),
    _key("key"),
    _key("user_id"),
    _text("shard", nullable=True),
    _whole("samples"),
    indexed=("user_id",),
)
forget_requests = _table(
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
    _counter("erased_impressions"),
    _whole("masked_rows"),
    _whole("masked_samples"),
    sa.Column("accepted_at", sa.Double, nullable=False),
    sa.Column("masked_at", sa.Double, nullable=False),
    sa.Column("retraining_at", sa.Double),
    sa.Column("completed_at", sa.Double),
    _whole("attempts"),
    _text("error", nullable=True),
    _text("receipt", nullable=True),
    _text("outcome", nullable=True),  # what it found; null: accepted by a version that did not note it
    _text("items", nullable=True),  # of the items that it names, how many were found: JSON
    _text("requested_by", nullable=True),  # id of the API key that asked for it, if one did
    sa.Column("released_at", sa.Double),  # when the hold ended that it waited for
    indexed=("subject", "state"),
)
idempotency = _table("idempotency", _key("key_hash"), _text("content_hash"), _text("request_id"))
masks = _table(
    "masks",
    _key("kind"),
    _key("key"),
    _key("request_id"),  # of a deletion, or the id of a restraint
    _flag("lifted"),  # it masks no more, and is kept for the receipt of a deletion that is held
    indexed=("request_id",),
)
tombstones = _table(
    "tombstones",
    _key("subject"),
    _key("grave", key="scope_hash"),
    _text("request_id"),
    _whole("fence"),
    sa.Column("expires_at", sa.Double),  # seconds since the epoch; null: it stands for ever
    sa.Column("accepted_at", sa.Double),  # of its request, if that found nothing; null: what was held lies here
)
api_keys = _table(
    "api_keys",
    _key("key_id"),
    _text("name"),
    _text("key_hash"),  # keyed hash of the whole key: nobody can read the key from here
    _text("scopes"),  # JSON
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("last_used_at", sa.Double),
    sa.Column("requests_per_minute", sa.BigInteger),  # null: the setting's
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("deletions_per_minute", sa.BigInteger),
)
audit_log = _table(
    "audit_log",
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Double, nullable=False),
    _text("actor"),
    _text("action"),
    _text("outcome"),
    _text("request_id", nullable=True),
    _text("subject", nullable=True),  # keyed hash of the person concerned, until their deletion is completed
    _text("subject_salt", nullable=True),
    _text("subject_digest"),
    _text("address", nullable=True),
    _text("address_salt", nullable=True),
    _text("address_digest"),
    _text("previous"),  # digest of the entry before
    _text("digest"),
    indexed=("subject",),
)
# What is to be told of deletions, by webhooks; of a request each state once. It names no person.
outbox = _table(
    "outbox",
    _key("request_id"),
    _key("state"),
    sa.Column("occurred_at", sa.Double, nullable=False),
    _whole("attempts"),
    sa.Column("next_attempt_at", sa.Double),  # null: delivered, or given up
    sa.Column("delivered_at", sa.Double),
    indexed=("next_attempt_at",),
)
# Hashes of full subtrees, entries at level 0. Salted: nothing here tells of anybody, so nothing here is ever erased.
receipt_log = _table(
    "receipt_log",
    sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    _text("hash"),
)
logged_receipts = _table(
    "logged_receipts",
    _key("request_id"),
    sa.Column("position", sa.BigInteger, nullable=False),
    _text("salt"),
)
# Of an encrypted store. A key that is removed here is destroyed.
artifact_keys = _table(
    "artifact_keys",
    _key("directory"),  # kind and digest; "": a key of nobody's, which tells a wrong wrapping key
    _text("wrapped_key"),  # AES-KW, in hex, by a key that is not in the database
)

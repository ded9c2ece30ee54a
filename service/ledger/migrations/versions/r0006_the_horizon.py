"""Rows and items that arrive while a generation is served count in samples from the next full build on."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add tables and columns. What is served was built from everything, so nothing lies beyond the horizon yet."""
    _add_to_items()
    _make_tables()
    for name in ("arrived", "catalog", "availability"):
        op.add_column("state", sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.add_column("state", sa.Column("horizon", sa.BigInteger))
    op.execute("UPDATE state SET horizon = 0 WHERE generation IS NOT NULL")
    # Who does not know of `arrivals` would forget a person and leave them there.
    op.execute("UPDATE state SET oldest_schema = '0006'")


def _add_to_items() -> None:
    for name in ("description", "attributes"):
        op.add_column("items", sa.Column(name, _Text))
    for name in ("available_from", "available_until"):
        op.add_column("items", sa.Column(name, sa.Double))
    for name in ("hidden", "deleted"):
        op.add_column("items", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()))


def _make_tables() -> None:
    op.create_table(
        "former_items",
        sa.Column("item_id", _Text, primary_key=True),
        sa.Column("stated", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("title", _Text, nullable=False),
        sa.Column("year", sa.Integer),
        sa.Column("genres", _Text, nullable=False),
        sa.Column("author", _Text),
        sa.Column("created", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "arrivals",
        sa.Column("user_id", _Text, primary_key=True),
        sa.Column("item_id", _Text, sa.ForeignKey("items.item_id"), primary_key=True),
        sa.Column("liked", sa.Boolean, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("rating", sa.Double),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("user_id", _Text, primary_key=True),
        sa.Column("event_hash", _Text, primary_key=True),
        sa.Column("item_id", _Text, nullable=False),
        sa.Column("accepted_at", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("events_accepted_at", "events", ["accepted_at"])

"""What a full build under way lets count stands apart from what arrives meanwhile, so that a deletion need not wait for it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add two tables and a column. A full build that was cut off had moved the horizon already, and has nothing due."""
    op.create_table(
        "due",
        sa.Column("user_id", _Text, primary_key=True),
        sa.Column("item_id", _Text, sa.ForeignKey("items.item_id"), primary_key=True),
        sa.Column("liked", sa.Boolean, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("rating", sa.Double),
        sa.Column("source", _Text),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "due_items",
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
    op.add_column("state", sa.Column("due", sa.BigInteger))
    # Who does not know of `due` would forget a person and leave them there.
    op.execute("UPDATE state SET oldest_schema = '0011'")

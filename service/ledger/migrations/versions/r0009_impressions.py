"""Impressions: what somebody was shown, and what came of it; and how many of them a deletion erased."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add tables and a column."""
    op.create_table(
        "impressions",
        sa.Column("user_id", _Text, primary_key=True),
        sa.Column("recommendation_id", _Text, primary_key=True),
        sa.Column("generation", _Text, nullable=False),
        sa.Column("shown_at", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("impressions_shown_at", "impressions", ["shown_at"])
    op.create_table(
        "shown_items",
        sa.Column("user_id", _Text, primary_key=True),
        sa.Column("recommendation_id", _Text, primary_key=True),
        sa.Column("item_id", _Text, primary_key=True),
        sa.Column("attributed", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("liked", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("request_id", _Text),
        sqlite_with_rowid=False,
    )
    op.add_column(
        "forget_requests",
        sa.Column("erased_impressions", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    # Who does not know of impressions would forget a person and leave them there.
    op.execute("UPDATE state SET oldest_schema = '0009'")

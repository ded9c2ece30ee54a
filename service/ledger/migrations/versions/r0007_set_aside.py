"""Restriction, objection and legal hold: rows are set aside, from where they come back or are erased later."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add tables and columns."""
    op.create_table(
        "set_aside",
        sa.Column("user_id", _Text, primary_key=True),
        sa.Column("request_id", _Text, primary_key=True),
        sa.Column("beyond", sa.Boolean, primary_key=True),
        sa.Column("item_id", _Text, primary_key=True),
        sa.Column("liked", sa.Boolean, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("rating", sa.Double),
        sa.Column("item", _Text),
        sa.Column("former_item", _Text),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "restraints",
        sa.Column("subject", _Text, primary_key=True),
        sa.Column("kind", _Text, primary_key=True),
        sa.Column("restraint_id", _Text, nullable=False),
        sa.Column("ground", _Text),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.add_column("state", sa.Column("restrained", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.add_column("forget_requests", sa.Column("released_at", sa.Double))
    op.add_column("masks", sa.Column("lifted", sa.Boolean, nullable=False, server_default=sa.false()))
    # Who does not know of `set_aside` would forget a person and leave them there, or take in what they may not.
    op.execute("UPDATE state SET oldest_schema = '0007'")

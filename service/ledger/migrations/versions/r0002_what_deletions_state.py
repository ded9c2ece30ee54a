"""Tombstones that may expire, ratings as they were stated, items made by an import, and the secret's check value."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add columns only, all of which may be absent from what an earlier version writes."""
    op.add_column("tombstones", sa.Column("expires_at", sa.Double))
    op.add_column("tombstones", sa.Column("accepted_at", sa.Double))
    op.add_column("interactions", sa.Column("rating", sa.Double))
    op.add_column("items", sa.Column("created", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("state", sa.Column("secret_check", _Text))
    op.add_column("state", sa.Column("oldest_schema", _Text))

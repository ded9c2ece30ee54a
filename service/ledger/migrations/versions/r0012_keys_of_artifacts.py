"""An encrypted store has a key for each of its directories, which stands here, wrapped."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add a table. Who does not know of it cannot open an encrypted store either, whose form is a later one."""
    op.create_table(
        "artifact_keys",
        sa.Column("directory", _Text, primary_key=True),
        sa.Column("wrapped_key", _Text, nullable=False),
        sqlite_with_rowid=False,
    )

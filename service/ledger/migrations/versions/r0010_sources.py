"""Where rows came from: a label of a file or a client, by which they are found when it turns out to be polluted."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add a column to every table of rows."""
    for table in ("interactions", "arrivals", "set_aside"):
        op.add_column(table, sa.Column("source", _Text))
    # Who does not know of it would move rows without it, and a selection by source would miss them.
    op.execute("UPDATE state SET oldest_schema = '0010'")

"""Items can be named by titles as people write them."""

import sqlalchemy as sa
from alembic import op

from service.data.titles import plain_title

revision = "0004"
down_revision = "0003"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_items = sa.table("items", sa.column("item_id", _Text), sa.column("title", _Text), sa.column("plain_title", _Text))


def upgrade() -> None:
    """Add the column, and fill it in for the items that there are."""
    op.add_column("items", sa.Column("plain_title", _Text))
    op.create_index("items_plain_title", "items", ["plain_title"])
    connection = op.get_bind()
    titles = [
        {"own_id": item_id, "plain": plain_title(title)}
        for item_id, title in connection.execute(sa.select(_items.c.item_id, _items.c.title))
    ]
    if titles:
        one = sa.update(_items).where(_items.c.item_id == sa.bindparam("own_id"))
        connection.execute(one.values(plain_title=sa.bindparam("plain")), titles)

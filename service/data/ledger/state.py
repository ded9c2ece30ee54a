"""The one row of `state`: the fence, the revision, what is published, and the catalogue's noun."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from service.data.ledger import tables
from service.data.ledger.statements import Row

DEFAULT_NOUN = "item"


def read_state(connection: sa.Connection) -> Row:
    return connection.execute(sa.select(tables.state)).one()


def set_state(connection: sa.Connection, **values: Any) -> None:
    """Change values that no cache depends on; for all others there is `raise_revision`."""
    connection.execute(sa.update(tables.state).values(**values))


def raise_revision(connection: sa.Connection, **values: Any) -> None:
    """Change values, and say that what was read before is old."""
    set_state(connection, revision=tables.state.c.revision + 1, **values)


def noun(connection: sa.Connection) -> str:
    """What the catalogue's items are called; the default until an import has said."""
    return str(read_state(connection).noun or DEFAULT_NOUN)


def publish(connection: sa.Connection, generation: str, fence: int) -> bool:
    """Whether this view is not older than the published one. Raises the revision only when something changes."""
    state = read_state(connection)
    if fence < state.published_fence:
        return False
    if (state.generation, state.published_fence) != (generation, fence):
        raise_revision(connection, generation=generation, published_fence=fence)
    return True

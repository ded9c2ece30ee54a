"""The one row of `state`: the fence, the revision, what is published, and the catalog's item type."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.schema import known_schema
from service.ledger.statements import Row
from service.records import BuildConfig, ModelIdentity, Published

DEFAULT_ITEM_TYPE = "item"


def read_state(connection: sa.Connection) -> Row:
    """The row. Raises LedgerNewer if a later version upgraded the ledger, and this one may not work with it any more."""
    columns = (column.label(column.key) for column in tables.state.c)
    row = connection.execute(sa.select(*columns)).one()
    known_schema().check_still(row.oldest_schema)
    return row


def set_state(connection: sa.Connection, **values: Any) -> None:
    """Change values that no cache depends on; for all others there is `raise_revision`."""
    connection.execute(sa.update(tables.state).values(**values))


def raise_revision(connection: sa.Connection, **values: Any) -> None:
    """Change values, and say that what was read before is old."""
    set_state(connection, revision=tables.state.c.revision + 1, **values)


def item_type(connection: sa.Connection) -> str:
    """What the catalog's items are called; the default until an import has said."""
    return str(read_state(connection).item_type or DEFAULT_ITEM_TYPE)


def publish(connection: sa.Connection, published: Published) -> bool:
    """Whether this view is not older than the published one. Raises the revision only when something changes."""
    state = read_state(connection)
    if published.fence < state.published_fence or published.horizon < _published_horizon(state):
        return False
    values = {
        "generation": published.generation,
        "published_fence": published.fence,
        "published": json.dumps(
            {
                "config": published.config.stated(),
                "frozen": asdict(published.frozen),
                "environment": dict(published.environment),
                "horizon": published.horizon,
                "catalog": published.catalog,
            }
        ),
    }
    if any(getattr(state, name) != value for name, value in values.items()):
        raise_revision(connection, **values)
    return True


def published(connection: sa.Connection) -> Published | None:
    """What is served, if anything."""
    state = read_state(connection)
    if state.generation is None:
        return None
    made = json.loads(state.published)
    config = BuildConfig.of(made["config"])
    return Published(
        state.generation,
        state.published_fence,
        config,
        ModelIdentity(**made["frozen"]),
        made["environment"],
        horizon=made.get("horizon", 0),
        catalog=made.get("catalog", 0),
    )


def is_behind(connection: sa.Connection) -> bool:
    """Whether the horizon has moved, the catalog has changed, or rows were set aside since what is published was read."""
    state, known = read_state(connection), published(connection)
    if known is None:
        return False
    return known.fence < int(state.restrained) or (known.horizon, known.catalog) != (
        int(state.horizon or 0),
        int(state.catalog),
    )


def _published_horizon(state: Row) -> int:
    return 0 if state.published is None else int(json.loads(state.published).get("horizon", 0))


def raise_fence(connection: sa.Connection, fence: int) -> None:
    """Let the fence be at least this: after a restore it must not fall behind what was answered before."""
    if read_state(connection).fence < fence:
        raise_revision(connection, fence=fence)

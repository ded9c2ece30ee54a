"""What may not be used: artifacts that had seen somebody who is to be out of the model, until it is built without them.

The masks of a deletion stand until it is completed. Those of a restriction, and of a deletion that is held, are lifted when a
generation is published that was built without the person.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.state import raise_revision, read_state
from service.ledger.statements import count, insert_new
from service.records import Mask


class MaskedArtifacts(NamedTuple):
    """By their kinds."""

    adapters: frozenset[str]
    rows: frozenset[str]
    memories: frozenset[str]


def add_masks(connection: sa.Connection, masks: Iterable[tuple[str, str, str]]) -> bool:
    """Add (kind, key, request id); whether any of them was new."""
    before = count(connection, tables.masks)
    rows = [{"kind": kind, "key": key, "request_id": request_id} for kind, key, request_id in masks]
    insert_new(connection, tables.masks, rows)
    return count(connection, tables.masks) > before


def masked_by(connection: sa.Connection, request_id: str) -> MaskedArtifacts:
    """What a request has masked, also what it masks no more, as it is held."""
    return _read(connection, tables.masks.c.request_id == request_id)


def lift_settled(connection: sa.Connection, fence: int) -> None:
    """Lift what masks people of whom nothing is in a generation that was built at this fence, and of whom rows are kept."""
    m, restraint, request = tables.masks, tables.restraints.c, tables.forget_requests.c
    restricted = sa.select(restraint.restraint_id).where(restraint.kind == "restriction", restraint.fence <= fence)
    held = sa.select(request.request_id).where(request.state == "held", request.fence <= fence)
    lifted = connection.execute(sa.delete(m).where(m.c.request_id.in_(restricted))).rowcount
    # Their receipts will name what they had masked.
    kept = sa.update(m).where(m.c.request_id.in_(held), ~m.c.lifted).values(lifted=True)
    if lifted + connection.execute(kept).rowcount:
        raise_revision(connection)


def drop_masks(connection: sa.Connection, request_id: str) -> int:
    """Mask nothing more for this restraint; how many masks that were. The caller raises the revision."""
    return connection.execute(sa.delete(tables.masks).where(tables.masks.c.request_id == request_id)).rowcount


def read_mask(connection: sa.Connection, known: Mask | None) -> Mask:
    """The mask; `known` itself, after reading one row, if nothing has changed since."""
    state = read_state(connection)
    if known is not None and known.revision == state.revision:
        return known
    return Mask(state.revision, state.fence, state.generation, *_read(connection, ~tables.masks.c.lifted))


def _read(connection: sa.Connection, *of: sa.ColumnElement[bool]) -> MaskedArtifacts:
    masked: dict[str, set[str]] = {"adapter": set(), "row": set(), "memory": set()}
    for kind, key in connection.execute(sa.select(tables.masks.c.kind, tables.masks.c.key).where(*of)):
        masked[kind].add(key)
    return MaskedArtifacts(*map(frozenset, masked.values()))

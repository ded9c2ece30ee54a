"""What may not be used: artifacts that had seen somebody who asked to be forgotten, until that request is completed."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from service.data.ledger import tables
from service.data.ledger.state import read_state
from service.data.ledger.statements import count, insert_new
from service.records import Mask


def add_masks(connection: sa.Connection, masks: Iterable[tuple[str, str, str]]) -> bool:
    """Add (kind, key, request id); whether any of them was new."""
    before = count(connection, tables.masks)
    rows = [{"kind": kind, "key": key, "request_id": request_id} for kind, key, request_id in masks]
    insert_new(connection, tables.masks, rows)
    return count(connection, tables.masks) > before


def masked_by(connection: sa.Connection, request_id: str) -> tuple[frozenset[str], frozenset[str]]:
    """The adapters and the validation rows that a request has masked."""
    mine = sa.select(tables.masks.c.kind, tables.masks.c.key).where(tables.masks.c.request_id == request_id)
    seen = connection.execute(mine).all()
    adapters, rows = (frozenset(row.key for row in seen if row.kind == kind) for kind in ("adapter", "row"))
    return adapters, rows


def read_mask(connection: sa.Connection, known: Mask | None) -> Mask:
    """The mask; `known` itself, after reading one row, if nothing has changed since."""
    state = read_state(connection)
    if known is not None and known.revision == state.revision:
        return known
    masked: dict[str, set[str]] = {"adapter": set(), "row": set()}
    for kind, key in connection.execute(sa.select(tables.masks.c.kind, tables.masks.c.key)):
        masked[kind].add(key)
    adapters, rows = frozenset(masked["adapter"]), frozenset(masked["row"])
    return Mask(state.revision, state.fence, state.generation, adapters, rows)

"""What may not be used: artifacts that had seen somebody who asked to be forgotten, until that request is completed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.state import read_state
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
    """What a request has masked."""
    return _read(connection, tables.masks.c.request_id == request_id)


def read_mask(connection: sa.Connection, known: Mask | None) -> Mask:
    """The mask; `known` itself, after reading one row, if nothing has changed since."""
    state = read_state(connection)
    if known is not None and known.revision == state.revision:
        return known
    return Mask(state.revision, state.fence, state.generation, *_read(connection))


def _read(connection: sa.Connection, *of: sa.ColumnElement[bool]) -> MaskedArtifacts:
    masked: dict[str, set[str]] = {"adapter": set(), "row": set(), "memory": set()}
    for kind, key in connection.execute(sa.select(tables.masks.c.kind, tables.masks.c.key).where(*of)):
        masked[kind].add(key)
    return MaskedArtifacts(*map(frozenset, masked.values()))

"""The ledger at one moment, as a build reads it: a little of everybody, and everything of those whom it asks for."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from service.ledger import (
    catalogue,
    exposures,
    histories,
    placements,
    state,
)
from service.ledger.placements import PlaceColumns
from service.records import Item, LedgerView, Place


class Reading:
    """Answers from one state of the database, as long as the transaction is open that it was made on."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        now = state.read_state(connection)
        self.fence = int(now.fence)
        self.outline: str | None = now.outline  # under which places are remembered
        self.noun = state.noun(connection)

    def items(self) -> tuple[Item, ...]:
        """The catalogue, by item id."""
        return catalogue.all_items(self._connection)

    def view(self, users: Collection[str] | None = None) -> LedgerView:
        """Everything, or what concerns these users."""
        if users is None:
            return histories.read_view(self._connection)
        return histories.read_view_of(self._connection, users)

    def changed(self, after: str | None, limit: int | None) -> dict[str, int]:
        """Users of whom no place is remembered since they changed -> when that was; the first `limit` after `after`."""
        return placements.read_changed(self._connection, after, limit)

    def place_columns(self) -> PlaceColumns:
        """All remembered units that train, in order of their paths."""
        return placements.read_columns(self._connection)

    def memory_columns(self) -> PlaceColumns:
        """Everybody's remembered parts in memories, in order of their paths."""
        return placements.read_memory_columns(self._connection)

    def places_under(self, node: str) -> list[Place]:
        """The remembered units at and below a node of the tree."""
        return placements.read_under(self._connection, node)

    def validating(self) -> list[Place]:
        """The remembered users whose samples validate."""
        return placements.read_validating(self._connection)

    def exposed(self) -> dict[tuple[str, str], int]:
        """(kind, key) of an artifact -> samples of all people of whom it is known that it has seen them."""
        return exposures.count_samples(self._connection)

"""The ledger at one moment, as a build reads it: a little of everybody, and everything of those whom it asks for."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from service.ledger import (
    histories,
    horizon,
    lineage,
    placements,
    state,
)
from service.ledger.placements import AssignmentColumns
from service.records import Item, LedgerView, ShardAssignment


class ReadTransaction:
    """Answers from one state of the database, as long as the transaction is open that it was made on.

    `due`: as if the full build under way had moved the horizon already. What is remembered of people of whom it reads something
    else is left out, and they are among those who changed.
    """

    def __init__(self, connection: sa.Connection, due: bool = False) -> None:
        self._connection, self._due = connection, due
        self._whose = placements.of_others(horizon.read_again_when_due()) if due else placements.EVERYBODYS
        now = state.read_state(connection)
        self.fence = int(now.fence)
        self.fingerprint: str | None = now.fingerprint  # under which places are remembered
        self.item_type = state.item_type(connection)
        self.horizon = int((now.due if due else now.horizon) or 0)
        self.catalog_revision = int(now.catalog)

    def items(self) -> tuple[Item, ...]:
        """The items up to the horizon, by item id: samples and anchors are made of these."""
        return horizon.items_at_horizon(self._connection, self._due)

    def catalog(self) -> tuple[Item, ...]:
        """The items of now, by item id: these are served."""
        return horizon.served_items(self._connection)

    def view(self, users: Collection[str] | None = None) -> LedgerView:
        """Everything, or what concerns these users."""
        if users is None:
            return histories.read_view(self._connection, self._due)
        return histories.read_view_of(self._connection, users, self._due)

    def changed(self, after: str | None, limit: int | None) -> dict[str, int]:
        """Users of whom no place is remembered since they changed -> when that was; the first `limit` after `after`."""
        return placements.read_changed(
            self._connection, after, limit, horizon.read_again_when_due() if self._due else None
        )

    def assignment_columns(self) -> AssignmentColumns:
        """All remembered units that train, in order of their paths."""
        return placements.read_columns(self._connection, self._whose)

    def memory_columns(self) -> AssignmentColumns:
        """Everybody's remembered parts in memories, in order of their paths."""
        return placements.read_memory_columns(self._connection, self._whose)

    def assignments_under(self, node: str) -> list[ShardAssignment]:
        """The remembered units at and below a node of the tree."""
        return placements.read_under(self._connection, node, self._whose)

    def validating(self) -> list[ShardAssignment]:
        """The remembered users whose samples validate."""
        return placements.read_validating(self._connection, self._whose)

    def exposed(self) -> dict[tuple[str, str], int]:
        """(kind, key) of an artifact -> samples of all people of whom it is known that it has seen them."""
        return lineage.count_samples(self._connection)

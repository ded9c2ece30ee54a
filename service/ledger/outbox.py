"""The outbox of notifications: what became of a deletion, noted in the transaction that changes it, until it is delivered.

A row names a request, never a person. One of each kind a request: what happens again under the same name was told already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.database import Database
from service.ledger.statements import insert_new

Announced = Literal["masked", "completed", "failed"]
"""What a deletion's caller may want to be told: from when it counts, that it is done, that an attempt at it failed."""

_c = tables.outbox.c
_PENDING = _c.next_attempt_at.is_not(None)


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """What is to be told. `attempts` counts this one, too; times are seconds since the epoch."""

    request_id: str
    state: Announced
    occurred_at: float
    accepted_at: float  # of the request
    owed_since: float  # its acceptance, or the release of the hold that it waited for
    attempts: int


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """How many notifications wait, came through, and were given up; and for how many seconds the oldest has waited."""

    pending: int
    delivered: int
    given_up: int
    oldest_pending: float


def announce(connection: sa.Connection, moments: Mapping[str, float], state: Announced) -> None:
    """Put into the outbox that these requests (id -> when) are in this state, unless it was put there before."""
    rows = [
        {"request_id": request_id, "state": state, "occurred_at": at, "attempts": 0, "next_attempt_at": at}
        for request_id, at in moments.items()
    ]
    insert_new(connection, tables.outbox, rows)


class Outbox:
    """The outbox of one ledger. Every method is at most one writing transaction; each raises LedgerUnavailable."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def claim(self, lease: float) -> OutboxEvent | None:
        """The event that has been due for longest, for this caller alone until `lease` seconds are over; None: none is due.

        If nobody says by then what came of it, because the process died, it is due again.
        """
        request = tables.forget_requests.c
        due_events = (
            sa.select(tables.outbox, request.accepted_at, request.released_at)
            .join(tables.forget_requests, request.request_id == _c.request_id)
            .where(_PENDING, _c.next_attempt_at <= self._clock())
        )
        with self._database.read_transaction() as connection:
            if connection.execute(due_events.limit(1)).first() is None:
                return None
        with self._database.write_transaction() as connection:
            ordered = due_events.order_by(_c.next_attempt_at, _c.request_id, _c.state)
            found = connection.execute(ordered.limit(1)).first()
            if found is None:
                return None  # another worker was faster
            taken = {"next_attempt_at": self._clock() + lease, "attempts": found.attempts + 1}
            connection.execute(_of(found.request_id, found.state).values(**taken))
        owed_since = found.accepted_at if found.released_at is None else found.released_at
        times = (found.occurred_at, found.accepted_at, owed_since)
        return OutboxEvent(found.request_id, found.state, *times, found.attempts + 1)

    def note_delivered(self, event: OutboxEvent) -> None:
        """Note that it came through."""
        self._note(event, next_attempt_at=None, delivered_at=self._clock())

    def note_failed(self, event: OutboxEvent, retry_in: float | None) -> None:
        """Note that an attempt failed: the next is in so many seconds, or (None) there is none."""
        self._note(event, next_attempt_at=None if retry_in is None else self._clock() + retry_in)

    def counts(self) -> OutboxCounts:
        """How things stand."""
        states = sa.select(
            sa.func.count(_c.next_attempt_at),
            sa.func.count(_c.delivered_at),
            sa.func.count(),
            sa.func.min(_c.occurred_at).filter(_PENDING),
        )
        with self._database.read_transaction() as connection:
            pending, delivered, of_all, oldest = connection.execute(states).one()
        waited = 0.0 if oldest is None else max(0.0, self._clock() - oldest)
        return OutboxCounts(pending, delivered, of_all - pending - delivered, waited)

    def prune(self, days: float) -> int:
        """Remove what is over and older, and say how much that is."""
        gone = sa.delete(tables.outbox).where(~_PENDING, _c.occurred_at < self._clock() - 86_400 * days)
        with self._database.write_transaction() as connection:
            return connection.execute(gone).rowcount

    def _note(self, event: OutboxEvent, **values: float | None) -> None:
        # Whoever was slower than the lease does not take back what another worker has delivered meanwhile.
        change = _of(event.request_id, event.state).where(_c.delivered_at.is_(None)).values(**values)
        with self._database.write_transaction() as connection:
            connection.execute(change)


def _of(request_id: str, state: str) -> sa.Update:
    return sa.update(tables.outbox).where(_c.request_id == request_id, _c.state == state)

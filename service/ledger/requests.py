"""Forget requests after they were accepted: asking for them, their states, and figures about them for operators."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from service.errors import UnknownRequest
from service.ledger import tables
from service.ledger.state import raise_revision
from service.ledger.statements import chunks, is_storable
from service.records import ForgetRequest, NamedItems, Outcome, RequestState

PENDING_STATES: tuple[RequestState, ...] = ("accepted", "retraining", "failed")
OWED_STATES: tuple[RequestState, ...] = (*PENDING_STATES, "held")  # a worker has nothing to do with the last
REQUEST_STATES = (*OWED_STATES, "completed")

_LISTS = ("affected_shards", "shard_names")  # stored as JSON

_requests = tables.forget_requests
PENDING = _requests.c.state.in_(PENDING_STATES)
OWED = _requests.c.state.in_(OWED_STATES)
_owed_since = sa.func.coalesce(_requests.c.released_at, _requests.c.accepted_at)  # nobody is late while it is held


def add_request(connection: sa.Connection, request: ForgetRequest) -> None:
    """Store a request that was just accepted."""
    row = asdict(request) | {name: json.dumps(getattr(request, name)) for name in _LISTS}
    row["items"] = None if request.items is None else json.dumps(asdict(request.items))
    connection.execute(sa.insert(_requests), [row])


def find_requests(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[ForgetRequest]:
    """The requests that meet all conditions, in the order in which they were accepted."""
    in_order = sa.select(_requests).order_by(_requests.c.fence, _requests.c.accepted_at)
    return [_request_of(dict(row)) for row in connection.execute(in_order.where(*conditions)).mappings()]


def read_page(
    connection: sa.Connection, place: tuple[float, str] | None, state: str | None, limit: int
) -> list[ForgetRequest]:
    """The first `limit` requests behind a place (time of acceptance, request id), of one state or of all."""
    c = _requests.c
    query = sa.select(_requests).order_by(c.accepted_at, c.request_id).limit(limit)
    if state is not None:
        query = query.where(c.state == state)
    if place is not None:
        query = query.where(sa.tuple_(c.accepted_at, c.request_id) > sa.tuple_(*map(sa.literal, place)))
    return [_request_of(dict(row)) for row in connection.execute(query).mappings()]


def _request_of(row: dict[str, Any]) -> ForgetRequest:
    lists = {name: tuple(json.loads(row[name])) for name in _LISTS}
    outcome = None if row["outcome"] is None else Outcome(row["outcome"])
    items = None if row["items"] is None else NamedItems(**json.loads(row["items"]))
    return ForgetRequest(**row | lists | {"outcome": outcome, "items": items})


def one_request(connection: sa.Connection, request_id: str) -> ForgetRequest:
    """Raises UnknownRequest."""
    found = find_requests(connection, _requests.c.request_id == request_id) if is_storable(request_id) else []
    if not found:
        raise UnknownRequest("no forget request has this id")
    return found[0]


def start(connection: sa.Connection, request_ids: Iterable[str], now: float) -> None:
    """The time at which work first began stays; each beginning counts as an attempt."""
    # A clock that was set back must not make work begin before the request was masked.
    beginning = sa.case((_requests.c.masked_at > now, _requests.c.masked_at), else_=now)
    first_time = sa.func.coalesce(_requests.c.retraining_at, beginning)
    attempts = _requests.c.attempts + 1
    _change_pending(
        connection, request_ids, state="retraining", retraining_at=first_time, attempts=attempts, error=None
    )


def add_late(connection: sa.Connection, request: ForgetRequest, new: Sequence[Mapping[str, Any]]) -> None:
    """Add to a request the rows of `lineage` that were recorded after it was accepted."""
    adapters = [row for row in new if row["kind"] == "adapter"]
    values = {
        "affected_shards": json.dumps([*request.affected_shards, *(row["key"] for row in adapters)]),
        "shard_names": json.dumps([*request.shard_names, *(row["shard"] for row in adapters)]),
        "masked_samples": request.masked_samples + sum(row["samples"] for row in adapters),
        "masked_rows": request.masked_rows + sum(row["kind"] == "row" for row in new),
    }
    connection.execute(sa.update(_requests).where(_requests.c.request_id == request.request_id).values(**values))


def release(connection: sa.Connection, request_ids: Iterable[str], now: float) -> None:
    """Let held requests be owed from now on."""
    for ids in chunks(request_ids):
        held = sa.and_(_requests.c.request_id.in_(ids), _requests.c.state == "held")
        connection.execute(sa.update(_requests).where(held).values(state="accepted", released_at=now))


def fail(connection: sa.Connection, request_ids: Iterable[str], reason: str) -> list[str]:
    """Those of the requests that are owed stay so; these are returned."""
    return _change_pending(connection, request_ids, state="failed", error=reason)


def _change_pending(connection: sa.Connection, request_ids: Iterable[str], **values: Any) -> list[str]:
    changed: list[str] = []
    for ids in chunks(request_ids):
        owed = sa.update(_requests).where(_requests.c.request_id.in_(ids), PENDING)
        changed += connection.scalars(owed.values(**values).returning(_requests.c.request_id))
    return changed


def complete(connection: sa.Connection, request_id: str, receipt: str, now: float) -> None:
    """The masks fall; the first receipt stays. Raises UnknownRequest."""
    request = one_request(connection, request_id)
    if request.receipt is not None:
        return
    # A request of which nothing was held is completed from the start, and only waits for its receipt.
    completed_at = request.completed_at or now
    done = {"state": "completed", "completed_at": completed_at, "receipt": receipt, "error": None}
    connection.execute(sa.update(_requests).where(_requests.c.request_id == request_id).values(**done))
    connection.execute(sa.delete(tables.masks).where(tables.masks.c.request_id == request_id))
    raise_revision(connection)


def count_by_state(connection: sa.Connection) -> dict[str, int]:
    """Every state -> how many requests are in it."""
    state = _requests.c.state
    found = connection.execute(sa.select(state, sa.func.count()).group_by(state))
    return dict.fromkeys(REQUEST_STATES, 0) | {row[0]: row[1] for row in found}


def completion_times(connection: sa.Connection) -> list[tuple[float, float]]:
    """(accepted_at or released_at, completed_at) of the deletions that were owed for a time, oldest first."""
    c = _requests.c
    # By the times alone, one whose clock was set back would look as if nothing had been held.
    was_owed = sa.or_(c.completed_at > c.masked_at, c.retraining_at.is_not(None))
    done = sa.and_(c.completed_at.is_not(None), was_owed)
    query = sa.select(_owed_since.label("since"), c.completed_at).where(done).order_by(c.accepted_at)
    return [(row.since, row.completed_at) for row in connection.execute(query)]


def count_pending_since(connection: sa.Connection, moment: float) -> int:
    """How many owed deletions were accepted, or released from a hold, before `moment`."""
    query = sa.select(sa.func.count()).select_from(_requests).where(PENDING, _owed_since < moment)
    return int(connection.scalar(query) or 0)


def oldest_pending_since(connection: sa.Connection) -> float | None:
    """When the oldest owed deletion was accepted, or released from a hold."""
    since: float | None = connection.scalar(sa.select(sa.func.min(_owed_since)).where(PENDING))
    return since

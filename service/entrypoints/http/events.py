"""What people do, as it happens: `POST /interactions`, and the deletion of single interactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Response
from starlette.requests import Request

from service.data.events import EventMeanings, UnknownEvent
from service.entrypoints.http import problems
from service.entrypoints.http.access import Known
from service.entrypoints.http.event_schemas import (
    EventRow,
    EventsAnswer,
    EventsBody,
    EventWord,
    ForgetInteractionsBody,
    RectifyBody,
)
from service.entrypoints.http.online import Online, OnlineServices
from service.entrypoints.http.schemas import ForgetAcknowledged, ForgetAnswer, IdempotencyKey
from service.ledger import Event, Scope
from service.records import Citation, Interaction

router = APIRouter(tags=["events"])


@router.post(
    "/interactions",
    response_model_exclude_unset=True,
    responses=problems.documented(400, 408, 413, 415, 422, 429, 500, 503),
)
def take_interactions(body: EventsBody, online: Online, caller: Known) -> EventsAnswer:
    """Take in what people did. Their next recommendation knows of it; samples and counts do from the next full build on."""
    if body.allow_returning:
        caller.require(Scope.RIGHTS)
    with online.turnstile.passed():
        now = int(online.ledger.now())
        read = [event_of(row, online.meanings, now) for row in body.interactions]
        taken = iter(online.events.take([one for one in read if isinstance(one, Event)], body.allow_returning))
        outcomes: list[EventWord] = [next(taken).value if isinstance(one, Event) else one for one in read]
        attributed = _attributed(citations(body.interactions, read, outcomes), len(read), online)
    citing = any(row.recommendation_id is not None for row in body.interactions)
    answer = EventsAnswer.of(outcomes, attributed if citing else None)
    online.telemetry.observe_events({str(word): number for word, number in answer.counts.items()})
    kinds = [online.meanings.word_for(row.event, row.rating) for row in body.interactions]
    online.telemetry.observe_event_kinds(Counter(zip(kinds, attributed, strict=True)))
    return answer


@router.delete("/interactions", status_code=202, responses=problems.documented(400, 408, 409, 413, 415, 422, 500, 503))
def forget_interactions(
    body: ForgetInteractionsBody,
    online: Online,
    request: Request,
    response: Response,
    after: BackgroundTasks,
    caller: Known,
    idempotency_key: Annotated[IdempotencyKey | None, Header()] = None,
) -> ForgetAnswer | ForgetAcknowledged:
    """Forget single interactions: `POST /forget` with `item_ids`."""
    online.doorkeeper.charge_deletion(caller)
    began = perf_counter()
    accepted = online.intake.forget(body.user_id, body.names(), idempotency_key, body.remember, caller.requester())
    online.telemetry.observe_mask(perf_counter() - began)
    after.add_task(online.bell.ring)
    response.headers["Location"] = f"{request.scope['root_path']}/forget/{accepted.request_id}"
    return ForgetAnswer.of(accepted) if caller.may(Scope.RIGHTS) else ForgetAcknowledged.of(accepted)


@router.patch(
    "/interactions", status_code=202, responses=problems.documented(400, 404, 408, 409, 413, 415, 422, 500, 503)
)
def rectify_interaction(
    body: RectifyBody,
    online: Online,
    request: Request,
    response: Response,
    after: BackgroundTasks,
    caller: Known,
    idempotency_key: Annotated[IdempotencyKey | None, Header()] = None,
) -> ForgetAnswer:
    """Rectify one interaction (Article 16): what is held is forgotten, and what the person says instead is held, at once.

    The corrected row has the time of the correction. What had learned from the old one is masked, as by a deletion.
    """
    online.doorkeeper.charge_deletion(caller)
    began = perf_counter()
    accepted = online.intake.rectify(
        body.user_id, body.correction(online.meanings), idempotency_key, caller.requester()
    )
    online.telemetry.observe_mask(perf_counter() - began)
    after.add_task(online.bell.ring)
    response.headers["Location"] = f"{request.scope['root_path']}/forget/{accepted.request_id}"
    return ForgetAnswer.of(accepted)


def _attributed(cited: Mapping[int, Citation], rows: int, online: OnlineServices) -> list[bool]:
    """Whether each row of so many was attributed to an answer; `cited` by their places."""
    if not cited:
        return [False] * rows
    online.impressions.flush()  # what this process has answered a moment ago is to be there
    found = dict(zip(cited, online.ledger.impressions.attribute(list(cited.values())), strict=True))
    return [found.get(at, False) for at in range(rows)]


_NO_CITATION = frozenset({"forgotten", "restricted", "unknown_item", "unknown_event"})


def citations(
    rows: Sequence[EventRow], read: Sequence[Event | EventWord], outcomes: Sequence[EventWord]
) -> dict[int, Citation]:
    """Place -> what the row there says of an answer, of those rows that name one and were not refused."""
    return {
        at: Citation(row.user_id, row.item_id, row.recommendation_id, isinstance(one, Event) and one.row.liked)
        for at, (row, one, outcome) in enumerate(zip(rows, read, outcomes, strict=True))
        if row.recommendation_id is not None and outcome not in _NO_CITATION
    }


def event_of(row: EventRow, meanings: EventMeanings, now: int) -> Event | EventWord:
    """The row that an event makes, or what becomes of it instead. `now` is its time if it states none."""
    liked = row.liked
    try:
        if row.event is not None:
            liked = meanings.of_kind(row.event)
        elif liked is None and row.rating is not None:
            liked = meanings.of_rating(row.rating)
    except UnknownEvent:
        return "unknown_event"
    if liked is None:
        return "ignored"
    time = now if row.timestamp is None else row.timestamp
    return Event(Interaction(row.user_id, row.item_id, liked, time, row.rating, row.source), row.event_id)

"""Deletions in number: their list with due dates, many at once; and what one would find before it is asked for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query

from service.entrypoints.http import problems
from service.entrypoints.http.access import Known
from service.entrypoints.http.forgetting_schemas import (
    LONGEST_LIST,
    MOST_FORGOTTEN,
    BatchForgetAnswer,
    BatchForgetBody,
    ForgetPage,
    PreviewAnswer,
    PreviewBody,
    SelectionBody,
    SelectionPreview,
    StateWord,
)
from service.entrypoints.http.online import Online, OnlineServices
from service.entrypoints.http.paging import ListCursor, cursor_of, ids_in
from service.entrypoints.http.schemas import ForgetStatus
from service.errors import InvalidInput
from service.records import WantedForget

router = APIRouter(tags=["forgetting"])

_LAST = 20  # completed deletions that say how long one takes


@router.get("/forget", responses=problems.documented(422, 500, 503))
def list_forgets(
    online: Online,
    state: Annotated[StateWord | None, Query()] = None,
    cursor: Annotated[ListCursor, Query()] = "",
    limit: Annotated[int, Query(ge=1, le=LONGEST_LIST)] = 100,
) -> ForgetPage:
    """Deletions in the order in which they were accepted, each with its due date."""
    found = online.ledger.requests_after(_place(cursor), state, limit)
    more = cursor_of((repr(found[-1].accepted_at), found[-1].request_id)) if len(found) == limit else None
    return ForgetPage(requests=[ForgetStatus.of(one, online.due_seconds) for one in found], cursor=more)


@router.post("/forget/preview", responses=problems.documented(400, 408, 413, 415, 422, 500, 503))
def preview_forget(body: PreviewBody, online: Online) -> PreviewAnswer:
    """What a deletion would erase and mask, if it came now. Nothing is changed."""
    took = [done - accepted for accepted, done in online.ledger.completion_times()[-_LAST:]]
    return PreviewAnswer.of(online.ledger.preview(body.user_id, body.names()), took)


@router.post(
    "/forget/batch", status_code=202, responses=problems.documented(400, 408, 409, 413, 415, 422, 429, 500, 503)
)
def forget_batch(body: BatchForgetBody, online: Online, after: BackgroundTasks, caller: Known) -> BatchForgetAnswer:
    """Forget many users, or the rows of a selection: each effective at once, with a receipt of its own, one build for all."""
    with online.turnstile.passed():
        accepted = online.intake.forget_all(_wanted(body, online), body.remember, caller.requester())
    after.add_task(online.bell.ring)
    return BatchForgetAnswer.of(accepted)


@router.post("/forget/batch/preview", responses=problems.documented(400, 408, 413, 415, 422, 500, 503))
def preview_batch(body: SelectionBody, online: Online) -> SelectionPreview:
    """How many rows a selection holds now, and of how many people. Nothing is changed."""
    return SelectionPreview.of(online.ledger.select_rows(body.rows(), MOST_FORGOTTEN))


def _wanted(body: BatchForgetBody, online: OnlineServices) -> list[WantedForget]:
    """Whom to forget, and which of their rows (None: all). Raises SelectionChanged."""
    if body.selection is None:
        return [(user, None) for user in body.user_ids or ()]
    return online.ledger.select_rows(body.selection.rows(), MOST_FORGOTTEN).previewed(body.selection.digest)


def _place(cursor: str) -> tuple[float, str] | None:
    said = ids_in(cursor)
    if not said:
        return None
    try:
        accepted_at, request_id = said
        return float(accepted_at), request_id
    except ValueError:
        raise InvalidInput("the cursor is none that this list gave") from None

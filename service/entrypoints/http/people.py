"""The rights of a person beside erasure: access, restriction, objection, one id for two; and holds, which bound erasure."""

from __future__ import annotations

import csv
import io
from time import perf_counter
from typing import Annotated, Literal

from fastapi import APIRouter, BackgroundTasks, Header, Path, Query, Response
from pydantic import BeforeValidator
from starlette.requests import Request

from service.entrypoints.http import problems
from service.entrypoints.http.access import Known
from service.entrypoints.http.contract import reference_to
from service.entrypoints.http.online import Online
from service.entrypoints.http.people_schemas import (
    ExportAnswer,
    ExportedRow,
    HoldAnswer,
    HoldBody,
    HoldReleased,
    MergeBody,
    RestrictionAnswer,
    RestrictionBody,
    RestrictionLifted,
)
from service.entrypoints.http.schemas import ForgetAnswer, Id, IdempotencyKey
from service.entrypoints.http.segments import whole_segment
from service.errors import UnknownRestraint

router = APIRouter(tags=["people"])

UserId = Annotated[Id, BeforeValidator(whole_segment), Path(description="The user's id")]
Format = Annotated[Literal["json", "csv"], Query(description="csv: the interactions alone, a line each")]


@router.get(
    "/users/{user_id}/export",
    response_class=Response,
    responses={
        200: {
            "description": "All that is held",
            "content": {
                "application/json": {"schema": reference_to(ExportAnswer)},
                "text/csv": {"schema": {"type": "string"}},
            },
        },
        **problems.documented(422, 500, 503),
    },
)
def export_user(user_id: UserId, online: Online, format: Format = "json") -> Response:
    """All that is held of a person, and where it counts. Of somebody who is not held it is empty, but for their deletions."""
    answer = ExportAnswer.of(user_id, online.ledger.export(user_id), online.due_seconds)
    if format == "json":
        return Response(answer.model_dump_json(), media_type="application/json")
    return Response(_table(answer.interactions), media_type="text/csv; charset=utf-8")


@router.post(
    "/users/{user_id}/merge",
    status_code=202,
    responses=problems.documented(400, 404, 408, 409, 413, 415, 422, 500, 503),
)
def merge_user(
    user_id: UserId,
    body: MergeBody,
    online: Online,
    request: Request,
    response: Response,
    caller: Known,
    after: BackgroundTasks,
    idempotency_key: Annotated[IdempotencyKey | None, Header()] = None,
) -> ForgetAnswer:
    """Merge this user into another: two ids are one person (a guest who has signed in).

    What is held under this id is held under the other from now on; of two rows of one item the newest counts. This id is
    forgotten as by a deletion, with a receipt: what has seen it is masked and built anew, and events under it are refused. A
    deletion of the other erases everything of both. 409 if one of them is restricted or under a hold, or the other asked for
    deletion.
    """
    online.doorkeeper.charge_deletion(caller)  # it costs what a deletion costs
    began = perf_counter()
    accepted = online.intake.merge(user_id, body.into, idempotency_key, caller.requester())
    online.telemetry.observe_mask(perf_counter() - began)
    after.add_task(online.bell.ring)
    response.headers["Location"] = f"{request.scope['root_path']}/forget/{accepted.request_id}"
    return ForgetAnswer.of(accepted)


_CHANGES = problems.documented(400, 408, 413, 415, 422, 500, 503)


@router.put("/users/{user_id}/restriction", responses=_CHANGES)
def restrict_user(
    user_id: UserId, body: RestrictionBody, online: Online, caller: Known, after: BackgroundTasks
) -> RestrictionAnswer:
    """Use a person's data no more, and keep it (Articles 18 and 21). Effective at once, and reversible.

    What has seen them is masked, as by a deletion; they are in nothing that is built from now on, and are answered as a
    stranger is. Events of theirs are refused. It stands over somebody of whom nothing is held, too.
    """
    online.doorkeeper.charge_deletion(caller)  # it costs what a deletion costs
    began = perf_counter()
    status = online.restraints.restrict(user_id, body.ground, caller.requester())
    online.telemetry.observe_mask(perf_counter() - began)
    after.add_task(online.bell.ring)
    return RestrictionAnswer.of(status)


@router.get("/users/{user_id}/restriction", responses=problems.documented(404, 422, 500, 503))
def read_restriction(user_id: UserId, online: Online) -> RestrictionAnswer:
    """The restriction of a person's data."""
    status = online.ledger.restraints.status(user_id, "restriction")
    if status is None:
        raise UnknownRestraint("this user's data is not restricted")
    return RestrictionAnswer.of(status)


@router.delete("/users/{user_id}/restriction", responses=problems.documented(422, 500, 503))
def lift_restriction(user_id: UserId, online: Online, caller: Known, after: BackgroundTasks) -> RestrictionLifted:
    """Use a person's data again: their rows are where they were, and what is built is as if nothing had been."""
    online.doorkeeper.charge_deletion(caller)
    lifted = online.restraints.lift_restriction(user_id, caller.requester())
    after.add_task(online.bell.ring)
    return RestrictionLifted.of(lifted)


@router.put("/users/{user_id}/hold", responses=_CHANGES)
def hold_user(user_id: UserId, body: HoldBody, online: Online, caller: Known) -> HoldAnswer:
    """Erase nothing of a person until the hold is released. A deletion is `held`: masked and out of builds, its rows kept."""
    return HoldAnswer.of(online.restraints.hold(user_id, body.ground, caller.requester()))


@router.get("/users/{user_id}/hold", responses=problems.documented(404, 422, 500, 503))
def read_hold(user_id: UserId, online: Online) -> HoldAnswer:
    """The legal hold over a person."""
    status = online.ledger.restraints.status(user_id, "hold")
    if status is None:
        raise UnknownRestraint("no hold stands over this user")
    return HoldAnswer.of(status)


@router.delete("/users/{user_id}/hold", responses=problems.documented(422, 500, 503))
def release_hold(user_id: UserId, online: Online, caller: Known, after: BackgroundTasks) -> HoldReleased:
    """Release a hold: the deletions that it has held are carried out now."""
    released = online.restraints.release_hold(user_id, caller.requester())
    after.add_task(online.bell.ring)
    return HoldReleased.of(released)


def _table(rows: list[ExportedRow]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(ExportedRow.model_fields))
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return text.getvalue()

"""The rights of a person beside erasure: `GET /users/{user_id}/export`."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response

from service.entrypoints.http import problems
from service.entrypoints.http.contract import reference_to
from service.entrypoints.http.online import Online
from service.entrypoints.http.people_schemas import ExportAnswer, ExportedRow
from service.entrypoints.http.schemas import Id

router = APIRouter(tags=["people"])

UserId = Annotated[Id, Path(description="The user's id")]
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
    answer = ExportAnswer.of(user_id, online.ledger.export(user_id))
    if format == "json":
        return Response(answer.model_dump_json(), media_type="application/json")
    return Response(_table(answer.interactions), media_type="text/csv; charset=utf-8")


def _table(rows: list[ExportedRow]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(ExportedRow.model_fields))
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return text.getvalue()

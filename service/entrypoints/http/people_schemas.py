"""What a person is told of what is held of them, on the wire."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel

from service.entrypoints.http.schemas import ForgetStatus, answer_config
from service.ledger import PersonExport


class ExportedRow(BaseModel):
    """One interaction. `counted`: the served model knows it as it is; else it does from the next full build on."""

    model_config = answer_config(
        {
            "item_id": "242",
            "title": "Kolya (1996)",
            "liked": True,
            "rating": 4.0,
            "timestamp": 881250949,
            "counted": True,
        }
    )

    item_id: str
    title: str
    liked: bool
    rating: float | None
    timestamp: int
    counted: bool


class ExportedUse(BaseModel):
    """A part of the model that has seen the person. Of a `row`, they validate: their samples decide weights."""

    model_config = answer_config({"kind": "adapter", "key": "9c0d", "shard": "010", "samples": 16})

    kind: Literal["adapter", "memory", "row"]
    key: str
    shard: str | None
    samples: int


class ExportAnswer(BaseModel):
    """All that is held of one person (Articles 15 and 20 of the GDPR), and where it counts."""

    model_config = answer_config(
        {
            "user_id": "196",
            "interactions": [
                {
                    "item_id": "242",
                    "title": "Kolya (1996)",
                    "liked": True,
                    "rating": 4.0,
                    "timestamp": 881250949,
                    "counted": True,
                }
            ],
            "used_by": [{"kind": "adapter", "key": "9c0d", "shard": "010", "samples": 16}],
            "known_event_ids": 0,
            "deletions": [],
        }
    )

    user_id: str
    interactions: list[ExportedRow]
    used_by: list[ExportedUse]
    known_event_ids: int
    deletions: list[ForgetStatus]

    @classmethod
    def of(cls, user_id: str, held: PersonExport) -> ExportAnswer:
        fields: dict[str, Any] = {
            "interactions": [asdict(row) for row in held.rows],
            "used_by": [asdict(use) for use in held.seen_by],
        }
        deletions = [ForgetStatus.of(request) for request in held.requests]
        return cls(user_id=user_id, known_event_ids=held.events, deletions=deletions, **fields)

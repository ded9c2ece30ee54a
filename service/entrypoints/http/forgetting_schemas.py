"""Deletions in number, and before they are asked for, on the wire."""

from __future__ import annotations

from statistics import median
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.entrypoints.http.people_schemas import ExportedUse
from service.entrypoints.http.schemas import (
    ForgetBody,
    ForgetStatus,
    Id,
    OutcomeWord,
    answer_config,
    body_config,
)
from service.ledger import ForgetPreview
from service.records import ForgetRequest

MOST_FORGOTTEN = 10_000
LONGEST_LIST = 1_000

StateWord = Literal["accepted", "held", "retraining", "completed", "failed"]


class ForgetPage(BaseModel):
    """Deletions, the oldest first, and the cursor of the next page (null: there is none)."""

    model_config = answer_config({"requests": [], "cursor": None})

    requests: list[ForgetStatus]
    cursor: str | None


class PreviewBody(ForgetBody):
    """A deletion as `POST /forget` takes it."""


class PreviewAnswer(BaseModel):
    """What the deletion would find and mask; nothing was changed.

    `expected_seconds` is the median of the last deletions until they were completed; null where none has been.
    """

    model_config = answer_config(
        {
            "outcome": "erased",
            "interactions": 120,
            "masked": [{"kind": "adapter", "key": "9c0d", "shard": "010", "samples": 16}],
            "expected_seconds": 42.0,
        }
    )

    outcome: OutcomeWord
    interactions: int
    masked: list[ExportedUse]
    expected_seconds: float | None

    @classmethod
    def of(cls, found: ForgetPreview, took: list[float]) -> PreviewAnswer:
        """`took`: seconds that the last deletions took."""
        masked = [
            ExportedUse.model_validate({"kind": use.kind, "key": use.key, "shard": use.shard, "samples": use.samples})
            for use in found.seen_by
        ]
        expected = median(took) if took else None
        return cls(
            outcome=found.outcome.value, interactions=found.interactions, masked=masked, expected_seconds=expected
        )


class BatchForgetBody(BaseModel):
    """Users to be forgotten, each as a whole. Sent again, those that are owed are the same requests."""

    model_config = body_config({"user_ids": ["196", "186"]})

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_FORGOTTEN)]
    remember: bool = False


class BatchForgotten(BaseModel):
    """One deletion of a batch, in the place of its user."""

    model_config = answer_config({"request_id": "f-81b2", "state": "accepted", "held": True})

    request_id: str
    state: str
    held: bool


class BatchForgetAnswer(BaseModel):
    """The deletions, one a user, in their order. One build carries all of them out."""

    model_config = answer_config({"held": 1, "requests": [{"request_id": "f-81b2", "state": "accepted", "held": True}]})

    held: int
    requests: list[BatchForgotten]

    @classmethod
    def of(cls, accepted: list[ForgetRequest]) -> BatchForgetAnswer:
        requests = [BatchForgotten(request_id=one.request_id, state=one.state, held=one.held) for one in accepted]
        return cls(held=sum(one.held for one in requests), requests=requests)

"""Deletions in number, and before they are asked for, on the wire."""

from __future__ import annotations

import math
from statistics import median
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from service.entrypoints.http.event_schemas import Source
from service.entrypoints.http.item_schemas import Moment
from service.entrypoints.http.people_schemas import ExportedUse
from service.entrypoints.http.schemas import (
    ForgetBody,
    ForgetStatus,
    Id,
    OutcomeWord,
    answer_config,
    body_config,
)
from service.ledger import MOST_ITEMS, ForgetPreview, RowSelection, SelectedRows
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
            "impressions": 7,
            "masked": [{"kind": "adapter", "key": "9c0d", "shard": "010", "samples": 16}],
            "expected_seconds": 42.0,
        }
    )

    outcome: OutcomeWord
    interactions: int
    impressions: int
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
            outcome=found.outcome.value,
            interactions=found.interactions,
            impressions=found.impressions,
            masked=masked,
            expected_seconds=expected,
        )


_Users = Annotated[list[Id], Field(min_length=1, max_length=MOST_FORGOTTEN)]


class SelectionBody(BaseModel):
    """Rows that meet all conditions that are given, one at least: of these items, users, sources, within this time."""

    model_config = body_config(
        {"item_ids": ["34"], "since": "2025-01-01T00:00:00Z", "until": "2025-01-02T00:00:00Z"},
        {"sources": ["web-shop"], "since": "2025-01-01T00:00:00Z"},
    )

    item_ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_ITEMS)] | None = None
    user_ids: _Users | None = None
    since: Moment | None = None
    until: Moment | None = None
    sources: Annotated[list[Source], Field(min_length=1, max_length=100)] | None = None

    @model_validator(mode="after")
    def _a_condition(self) -> SelectionBody:
        if self.rows().is_everything:
            raise PydanticCustomError("no_condition", "Give at least one condition")
        return self

    def rows(self) -> RowSelection:
        """The selection as the ledger knows it."""
        return RowSelection(
            item_ids=None if self.item_ids is None else tuple(self.item_ids),
            user_ids=None if self.user_ids is None else tuple(self.user_ids),
            since=None if self.since is None else math.floor(self.since.timestamp()),
            until=None if self.until is None else math.ceil(self.until.timestamp()),
            sources=None if self.sources is None else tuple(self.sources),
        )


class SelectionPreview(BaseModel):
    """What the selection holds now. `digest` goes with it to `POST /forget/batch`, which erases this or nothing."""

    model_config = answer_config({"users": 12, "interactions": 340, "items": 1, "digest": "5f1c"})

    users: int
    interactions: int
    items: int
    digest: str

    @classmethod
    def of(cls, found: SelectedRows) -> SelectionPreview:
        return cls(users=len(found.by_user), interactions=found.interactions, items=found.items, digest=found.digest)


class PreviewedSelection(SelectionBody):
    """A selection, and the digest that its preview gave: this is erased, or nothing."""

    model_config = body_config({"item_ids": ["34"], "digest": "5f1c"})

    digest: Annotated[str, Field(min_length=1, max_length=128)]


class BatchForgetBody(BaseModel):
    """Users to be forgotten, each as a whole; or a previewed selection of rows. Users who are owed keep their requests."""

    model_config = body_config({"user_ids": ["196", "186"]}, {"selection": {"item_ids": ["34"], "digest": "5f1c"}})

    user_ids: _Users | None = None
    selection: PreviewedSelection | None = None
    remember: bool = False

    @model_validator(mode="after")
    def _one_choice(self) -> BatchForgetBody:
        if (self.user_ids is None) == (self.selection is None):
            raise PydanticCustomError("one_choice", "Give exactly one of user_ids and selection")
        return self


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

"""What a person is told of what is held of them, and what may not be done with it, on the wire."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints

from service.entrypoints.http.schemas import ForgetStatus, Id, answer_config, body_config
from service.ledger import LONGEST_GROUND, HeldImpression, Lifted, PersonExport, RestraintStatus
from service.records import Restraint


class ExportedRow(BaseModel):
    """One interaction. `counted`: the served model knows it as it is; else it does from the next full build on.

    Not what is `set_aside`, of which nothing is made: the person is restricted, or a hold keeps it from a deletion.
    """

    model_config = answer_config(
        {
            "item_id": "242",
            "title": "Kolya (1996)",
            "liked": True,
            "rating": 4.0,
            "timestamp": 881250949,
            "counted": True,
            "set_aside": None,
            "source": "web-shop",
        }
    )

    item_id: str
    title: str
    liked: bool
    rating: float | None
    timestamp: int
    counted: bool
    set_aside: Literal["restriction", "hold"] | None
    source: Annotated[
        str | None, Field(description="Label of the file or client that the row came from, if it gave one")
    ]


class ExportedUse(BaseModel):
    """A part of the model that has seen the person. Of a `row`, they validate: their samples decide weights."""

    model_config = answer_config({"kind": "adapter", "key": "9c0d", "shard": "010", "samples": 16})

    kind: Literal["adapter", "memory", "row"]
    key: str
    shard: str | None
    samples: int


class ExportedItem(BaseModel):
    """An item that the person was shown: whether an event of theirs was attributed to that, and whether one liked it."""

    model_config = answer_config({"item_id": "242", "attributed": True, "liked": False, "set_aside": None})

    item_id: str
    attributed: bool
    liked: bool
    set_aside: Literal["restriction", "hold"] | None


class ExportedImpression(BaseModel):
    """What an answer has shown the person, by which generation, and when."""

    model_config = answer_config(
        {
            "recommendation_id": "0d9c5f7e3b1a4c62a8f04e6d2b97c315",
            "generation": "g-5f1c",
            "shown_at": "2025-01-01T12:00:00Z",
            "items": [{"item_id": "242", "attributed": True, "liked": False, "set_aside": None}],
        }
    )

    recommendation_id: str
    generation: str
    shown_at: AwareDatetime
    items: list[ExportedItem]

    @classmethod
    def of(cls, held: HeldImpression) -> ExportedImpression:
        return cls(
            recommendation_id=held.recommendation_id,
            generation=held.generation,
            shown_at=_time(held.shown_at),
            items=[ExportedItem.model_validate(asdict(item)) for item in held.items],
        )


class ExportedRestraint(BaseModel):
    """What may not be done with the person's data: use it (`restriction`), or erase it (`hold`), and since when and why."""

    model_config = answer_config({"kind": "restriction", "ground": "objection", "since": "2025-01-01T12:00:00Z"})

    kind: Literal["restriction", "hold"]
    ground: str | None
    since: AwareDatetime

    @classmethod
    def of(cls, restraint: Restraint) -> ExportedRestraint:
        return cls(kind=restraint.kind, ground=restraint.ground, since=_time(restraint.since))


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
                    "set_aside": None,
                    "source": "web-shop",
                }
            ],
            "used_by": [{"kind": "adapter", "key": "9c0d", "shard": "010", "samples": 16}],
            "known_event_ids": 0,
            "deletions": [],
            "restraints": [],
            "impressions": [],
        }
    )

    user_id: str
    interactions: list[ExportedRow]
    used_by: list[ExportedUse]
    known_event_ids: int
    deletions: list[ForgetStatus]
    restraints: list[ExportedRestraint]
    impressions: list[ExportedImpression]

    @classmethod
    def of(cls, user_id: str, held: PersonExport, due_seconds: float) -> ExportAnswer:
        """`due_seconds`: from the acceptance of a deletion until it is due."""
        fields: dict[str, Any] = {
            "interactions": [asdict(row) for row in held.rows],
            "used_by": [asdict(use) for use in held.seen_by],
            "restraints": [ExportedRestraint.of(restraint) for restraint in held.restraints],
            "impressions": [ExportedImpression.of(one) for one in held.impressions],
        }
        deletions = [ForgetStatus.of(request, due_seconds) for request in held.requests]
        return cls(user_id=user_id, known_event_ids=held.events, deletions=deletions, **fields)


class MergeBody(BaseModel):
    """The user into whom the one of the path is merged: both ids are one person, and this one stays."""

    model_config = body_config({"into": "196"})

    into: Id


class RestrictionBody(BaseModel):
    """Why a person's data may not be used: they asked for `restriction` (Article 18), or it is an `objection` (Article 21)."""

    model_config = body_config({"ground": "objection"})

    ground: Literal["restriction", "objection"]


class RestrictionAnswer(BaseModel):
    """A restriction that stands: in force since `since`, by masks; `left_out` once what is served was built without the person.

    `interactions` are kept, and nothing is made of them.
    """

    model_config = answer_config(
        {"ground": "objection", "since": "2025-01-01T12:00:00Z", "interactions": 120, "left_out": False}
    )

    ground: Literal["restriction", "objection"]
    since: AwareDatetime
    interactions: int
    left_out: bool

    @classmethod
    def of(cls, status: RestraintStatus) -> RestrictionAnswer:
        return cls.model_validate(
            {
                "ground": status.restraint.ground,
                "since": _time(status.restraint.since),
                "interactions": status.rows,
                "left_out": status.built,
            }
        )


class RestrictionLifted(BaseModel):
    """What the end of a restriction did. `lifted` is false if there was none; `interactions` count again."""

    model_config = answer_config({"lifted": True, "interactions": 120})

    lifted: bool
    interactions: int

    @classmethod
    def of(cls, lifted: Lifted) -> RestrictionLifted:
        return cls(lifted=lifted.restraint is not None, interactions=lifted.rows)


class HoldBody(BaseModel):
    """Why nothing of a person may be erased. Only keys with the scope `rights` are told; it goes when the hold is released."""

    model_config = body_config({"ground": "court order of 2025-01-01"})

    ground: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_GROUND)]


class HoldAnswer(BaseModel):
    """A hold that stands, and how many interactions deletions would have erased since.

    The ground is null where it was lost with a ledger of which a backup had to be restored.
    """

    model_config = answer_config(
        {"ground": "court order of 2025-01-01", "since": "2025-01-01T12:00:00Z", "interactions": 0}
    )

    ground: str | None
    since: AwareDatetime
    interactions: int

    @classmethod
    def of(cls, status: RestraintStatus) -> HoldAnswer:
        return cls(ground=status.restraint.ground, since=_time(status.restraint.since), interactions=status.rows)


class HoldReleased(BaseModel):
    """What the end of a hold did. `released` is false if there was none; `deletions` were held, and are carried out now."""

    model_config = answer_config({"released": True, "deletions": ["f-81b2"]})

    released: bool
    deletions: list[str]

    @classmethod
    def of(cls, lifted: Lifted) -> HoldReleased:
        return cls(released=lifted.restraint is not None, deletions=list(lifted.requests))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

"""Online quality on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from pydantic import BaseModel

from service.entrypoints.http.schemas import answer_config
from service.ledger import SMALLEST_GROUP, OnlineQuality


class GenerationQuality(BaseModel):
    """How one generation did. All figures are null where it was shown to fewer people than `smallest_group`.

    `hit_rate`: share of impressions of which somebody liked an item. `click_through`: share of shown items to which an event
    was attributed.
    """

    model_config = answer_config(
        {
            "generation": "g-5f1c",
            "served": True,
            "people": 120,
            "impressions": 480,
            "hit_rate": 0.25,
            "click_through": 0.08,
        }
    )

    generation: str
    served: bool
    people: int | None
    impressions: int | None
    hit_rate: float | None
    click_through: float | None


class QualityAnswer(BaseModel):
    """The generations that impressions are held of, the latest shown first."""

    model_config = answer_config(
        {
            "smallest_group": 20,
            "generations": [
                {
                    "generation": "g-5f1c",
                    "served": True,
                    "people": 120,
                    "impressions": 480,
                    "hit_rate": 0.25,
                    "click_through": 0.08,
                }
            ],
        }
    )

    smallest_group: int
    generations: list[GenerationQuality]

    @classmethod
    def of(cls, found: Sequence[OnlineQuality], served: str | None) -> QualityAnswer:
        """`served` is the published generation."""
        told = [GenerationQuality(served=one.generation == served, **asdict(one)) for one in found]
        return cls(smallest_group=SMALLEST_GROUP, generations=told)

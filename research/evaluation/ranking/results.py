"""What a ranking found, as plain values: the contents of `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from research.evaluation.comparison.results import plain
from research.evaluation.ranking.intervals import Interval

EVERYBODY = "everybody"
BY_HISTORY, BY_LIKES = "length of history", "likes of the item"
NEW_ITEMS, STRANGERS, MASKED = "new items", "strangers", "deletions owed"
ADAPTERS, MEMORIES, STORED_BYTES = "adapters", "memories", "stored bytes"


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method over all tested people. Seconds are wall time."""

    method: str
    figures: dict[str, float]  # by the names of `metrics.figures`
    options: dict[str, float]  # chosen on the validation part of the training rows
    build_seconds: float
    answer_seconds: float  # one person, mean
    forget_seconds: float  # one person, exactly: until nothing is left that has seen them
    holds: dict[str, int] = field(default_factory=dict)  # by the three names above; of peers nothing


@dataclass(frozen=True, slots=True)
class Outcome:
    """One method in one part of the question: everybody, a group, or an experiment of its own."""

    part: str
    group: str
    method: str
    asked: int  # people; of new items, pairs of a person and a draw
    ndcg: float  # at 10
    hr: float  # at 10
    lead: Interval | None  # of `lethe` over this method in NDCG@10, the same people compared; None for itself


@dataclass(frozen=True, slots=True)
class Ranking:
    """One whole ranking: methods on one split of one data set."""

    dataset: str
    protocol: str
    variant: dict[str, Any]  # what was changed of the data before it was cut, or of whom is asked
    counts: dict[str, int]  # items, training rows, people known, people tested
    split: str  # digest
    model: str  # digest of the frozen model
    settings: dict[str, Any]  # the fields of the `BuildConfig` of Lethe
    environment: dict[str, str]
    machine: dict[str, str]
    command: str
    date: str  # ISO day
    rows: tuple[MethodRow, ...]
    outcomes: tuple[Outcome, ...]

    def to_json(self) -> dict[str, Any]:
        """The ranking in JSON values; a figure that is NaN is written as null."""
        stated: dict[str, Any] = plain(asdict(self))
        return stated

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> Self:
        """What `to_json` wrote, after a way through JSON; null stays where there was no figure."""
        rows = tuple(MethodRow(**row) for row in stated["rows"])
        return cls(**{**stated, "rows": rows, "outcomes": tuple(_outcome(each) for each in stated["outcomes"])})

    def part(self, name: str) -> tuple[Outcome, ...]:
        """The outcomes of one part."""
        return tuple(outcome for outcome in self.outcomes if outcome.part == name)


def _outcome(stated: Mapping[str, Any]) -> Outcome:
    lead = stated["lead"]
    return Outcome(**{**stated, "lead": None if lead is None else Interval(**lead)})

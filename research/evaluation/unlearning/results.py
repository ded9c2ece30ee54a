"""What was found, as plain values: the contents of `results.json`, and means over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from research.evaluation.comparison.results import Figure, plain

FIGURES = (
    "auc",
    "accuracy",
    "log_loss",
    "jsd",
    "symmetric",
    "l2",
    "paper_seconds",
    "all_in_seconds",
    "parameters",
    "membership_auc",
    "relearning_steps",
    "int8_auc",
    "int8_jsd",
    "int8_membership_auc",
    "int8_relearning_steps",
)


@dataclass(frozen=True, slots=True)
class MeasuredMethod:
    """One row under one seed. Distances are means over D_f, to Retrain; of `lethe` to its own clean build.

    Seconds are wall time. None stands where a row has no such figure, or where it was measured under the first seed alone.
    """

    method: str
    seed: int
    part: str  # full | lora
    setting: dict[str, float] | None  # rate, epochs and weight; None for lethe
    auc: float  # NaN where the test samples are all liked or all disliked
    accuracy: float
    log_loss: float  # nats
    jsd: float  # nats
    symmetric: float | None  # half a symmetric KL over the whole vocabulary: the released code's JSD, nats
    l2: float
    paper_seconds: float  # without the making of the teachers
    all_in_seconds: float
    parameters: int
    membership_auc: float
    relearning_steps: int | None
    int8_auc: float | None
    int8_jsd: float | None  # to Retrain, rounded too
    int8_membership_auc: float | None
    int8_relearning_steps: int | None
    identical_to_clean_build: bool | None  # of lethe: whether every file is


@dataclass(frozen=True, slots=True)
class Drift:
    """One row after one more deletion of a stream. Distances over everybody forgotten so far, where they were measured."""

    method: str
    deletions: int
    auc: float
    log_loss: float
    jsd: float | None
    l2: float | None
    paper_seconds: float  # of this deletion
    all_in_seconds: float
    identical_to_clean_build: bool | None


@dataclass(frozen=True, slots=True)
class UnlearningComparison:
    """One whole run on one data set and one frozen model."""

    dataset: str
    order: str  # of the rows that were cut
    split: dict[str, int]
    forgotten: dict[str, int]  # people and samples of D_f under the first seed
    model: str  # digest of the frozen model
    settings: dict[str, Any]
    environment: dict[str, str]
    machine: dict[str, str]
    date: str  # ISO day
    seeds: tuple[int, ...]
    relearning_limit: int  # steps that were tried at most
    recipe: dict[str, float]  # of training from the base
    measured: tuple[MeasuredMethod, ...]
    stream: tuple[Drift, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values; a figure that is NaN is written as null."""
        stated: dict[str, Any] = plain(asdict(self))
        return stated

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> Self:
        """What `to_json` wrote, after a way through JSON."""
        return cls(
            **{
                **stated,
                "seeds": tuple(stated["seeds"]),
                "measured": tuple(measured_of(entry) for entry in stated["measured"]),
                "stream": tuple(drift_of(entry) for entry in stated["stream"]),
            }
        )


@dataclass(frozen=True, slots=True)
class UnlearningSummary:
    """One row over its seeds."""

    method: str
    part: str
    identical_to_clean_build: bool | None  # None where no seed asked; true where every seed that asked found it so
    figures: dict[str, Figure | None]


def measured_of(stated: Mapping[str, Any]) -> MeasuredMethod:
    """From JSON values, where null stands for a NaN."""
    return MeasuredMethod(**{**stated, **_undefined(stated, ("auc", "membership_auc"))})


def drift_of(stated: Mapping[str, Any]) -> Drift:
    """From JSON values, where null stands for a NaN."""
    return Drift(**{**stated, **_undefined(stated, ("auc",))})


def summaries(found: UnlearningComparison) -> list[UnlearningSummary]:
    """Every row over its seeds, in the order in which rows were measured."""
    names = dict.fromkeys(each.method for each in found.measured)
    return [_summary(name, [each for each in found.measured if each.method == name]) for name in names]


def _summary(name: str, measured: list[MeasuredMethod]) -> UnlearningSummary:
    figures = {figure: Figure.of(getattr(each, figure) for each in measured) for figure in FIGURES}
    asked = [each.identical_to_clean_build for each in measured if each.identical_to_clean_build is not None]
    return UnlearningSummary(name, measured[0].part, all(asked) if asked else None, figures)


def _undefined(stated: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    return {name: math.nan for name in names if stated[name] is None}

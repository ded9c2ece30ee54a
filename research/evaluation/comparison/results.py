"""What a comparison found, as plain values: the contents of `results.json`, and their means over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

REFERENCE = "retraining"  # what the differences in AUC are to

# The figures of `Measured`, in the order of its fields; every one has a mean over the seeds.
FIGURES = (
    "auc",
    "uauc",
    "accuracy",
    "log_loss",
    "single_auc",
    "shards",
    "build_seconds",
    "forget_user_seconds",
    "forget_user_shards",
    "forget_sample_seconds",
    "forget_sample_shards",
    "scoring_seconds_per_500",
    "trainable_parameters",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One method under one seed. Seconds are wall time; None stands where a method has no such figure."""

    method: str
    seed: int
    auc: float  # NaN where the test samples are all liked or all disliked
    uauc: float  # mean of the AUC of each user who has both classes; NaN where nobody has
    accuracy: float
    log_loss: float  # nats
    single_auc: float | None  # mean test AUC of the single adapters before aggregation; of one adapter: its own
    shards: int | None
    build_seconds: float  # of the making itself, whoever made it first; without reading the catalog
    forget_user_seconds: float | None  # of one random user, the same for all methods of a seed
    forget_user_shards: int | None  # adapters that had to be retrained, or fell away
    forget_sample_seconds: float | None  # of one random sample
    forget_sample_shards: int | None
    scoring_seconds_per_500: float
    trainable_parameters: int  # of all adapters together; coefficients of `logistic`; 0 for `like-share`


@dataclass(frozen=True, slots=True)
class StudyPoint:
    """One bar or dot of one of the APA paper's studies, or of our own on routing, under one seed.

    * `partition` (fig. 4): semantic | random | user | bekm, each with adaptive weights, level ND
    * `weights` (fig. 5): adaptive | average | best | semantic, each on the semantic partition, level ND
    * `shard_size` (fig. 6): "512 D", "512 ND", "256 D" … "128 ND"
    * `routing`: context | prompt: by which embedding neighbors are found; semantic partition, level ND
    * `inference_time` (fig. 3b): retraining | sisa | apa-d | apa-nd; `seconds` alone, per 500 samples
    """

    study: str
    variant: str
    seed: int
    auc: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One whole comparison: methods × seeds on one split and one frozen model."""

    dataset: str
    split: dict[str, int]  # training (drawn), pool (drawn from), validation, test, or "scored validation": samples
    model: str  # digest of the frozen model
    settings: dict[str, Any]  # the fields of `BuildConfig` under which every method was made
    environment: dict[str, str]
    date: str  # ISO day
    seeds: tuple[int, ...]
    measured: tuple[Measured, ...]
    studies: tuple[StudyPoint, ...]

    @property
    def is_validation_run(self) -> bool:
        """Whether validation samples were scored in the place of the test samples."""
        return "scored validation" in self.split

    @property
    def scored_samples(self) -> int:
        """How many samples the figures are of."""
        return self.split["scored validation" if self.is_validation_run else "test"]

    def to_json(self) -> dict[str, Any]:
        """The comparison in JSON values; a figure that is NaN is written as null."""
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
                "studies": tuple(StudyPoint(**entry) for entry in stated["studies"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure over the seeds that have it: mean and sample standard deviation (0 for one seed)."""

    mean: float
    sd: float
    seeds: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """None where no seed has the figure; NaN counts as not having it."""
        there = [value for value in values if value is not None and not math.isnan(value)]
        if not there:
            return None
        return cls(statistics.fmean(there), statistics.stdev(there) if len(there) > 1 else 0.0, len(there))


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """One method over all its seeds."""

    method: str
    figures: dict[str, Figure | None]  # by the names in `FIGURES`
    delta_auc: Figure | None  # of the differences to retraining, seed by seed


@dataclass(frozen=True, slots=True)
class StudySummary:
    """One bar or dot over all its seeds."""

    study: str
    variant: str
    auc: Figure | None
    seconds: Figure | None


def measured_of(stated: Mapping[str, Any]) -> Measured:
    """From JSON values, where null stands for NaN in figures that every method has."""
    undefined = {name: math.nan for name in ("auc", "uauc") if stated[name] is None}
    return Measured(**{**stated, **undefined})


def summary(comparison: Comparison) -> tuple[MethodSummary, ...]:
    """Every method over its seeds, in the order in which the methods were measured."""
    methods = dict.fromkeys(each.method for each in comparison.measured)
    reference = {each.seed: each.auc for each in comparison.measured if each.method == REFERENCE}
    return tuple(
        _summary_of(method, [each for each in comparison.measured if each.method == method], reference)
        for method in methods
    )


def study_summary(comparison: Comparison) -> tuple[StudySummary, ...]:
    """Every bar and dot over its seeds, in the order in which they were measured."""
    bars = dict.fromkeys((point.study, point.variant) for point in comparison.studies)
    return tuple(
        _study_summary_of(study, variant, [p for p in comparison.studies if (p.study, p.variant) == (study, variant)])
        for study, variant in bars
    )


def plain(value: Any) -> Any:
    """JSON values with null in the place of NaN."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def _summary_of(method: str, measured: list[Measured], reference: Mapping[int, float]) -> MethodSummary:
    figures = {name: Figure.of(getattr(each, name) for each in measured) for name in FIGURES}
    delta = Figure.of(each.auc - reference[each.seed] for each in measured if each.seed in reference)
    return MethodSummary(method, figures, delta)


def _study_summary_of(study: str, variant: str, points: list[StudyPoint]) -> StudySummary:
    return StudySummary(
        study, variant, Figure.of(point.auc for point in points), Figure.of(point.seconds for point in points)
    )

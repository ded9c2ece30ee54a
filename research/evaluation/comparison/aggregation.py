"""From K adapters to one answer: the two ways in which the papers' methods differ beside their partition."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from research.evaluation.comparison.laboratory import Finding, Removal, Trial
from research.evaluation.comparison.partitions import Partitioning
from research.evaluation.comparison.shards import (
    adaptive_scores,
    forget,
    parameters,
    single_scores,
    train,
    validation_errors,
)
from service.records import Level

SHARDS = 4  # K of the APA paper


@dataclass(frozen=True, slots=True)
class MeanOfPredictions:
    """Every adapter answers, and the mean of the K probabilities counts (SISA, Bourtoule et al. 2021)."""

    partitioning: Partitioning
    count: int = SHARDS

    def measure(self, trial: Trial, removals: Sequence[Removal]) -> Finding:
        """K passes over the test samples."""
        trained = train(trial, self.partitioning, self.count)
        single = single_scores(trial, trained)
        return Finding(
            scores=[statistics.fmean(answers) for answers in zip(*single.value, strict=True)],
            scoring_seconds=single.seconds,
            single_scores=single.value,
            shards=len(trained.shards),
            build_seconds=trained.seconds,
            trainable_parameters=parameters(trial, trained),
            forgotten=tuple(forget(trial, trained, removal, routes=False) for removal in removals),
        )


@dataclass(frozen=True, slots=True)
class AdaptiveBlend:
    """The adapters are blended inside one pass, by what they got wrong near the sample (APA, Hu et al. 2024, eqs. 5-8)."""

    partitioning: Partitioning
    level: Level
    count: int = SHARDS

    def measure(self, trial: Trial, removals: Sequence[Removal]) -> Finding:
        """One pass over the test samples, after one over their contexts for the routing."""
        trained = train(trial, self.partitioning, self.count)
        scores = adaptive_scores(trial, trained, self.level)
        return Finding(
            scores=scores.value,
            scoring_seconds=scores.seconds,
            single_scores=single_scores(trial, trained).value,
            shards=len(trained.shards),
            build_seconds=trained.seconds + validation_errors(trial, trained).seconds,
            trainable_parameters=parameters(trial, trained),
            forgotten=tuple(forget(trial, trained, removal, routes=True) for removal in removals),
        )

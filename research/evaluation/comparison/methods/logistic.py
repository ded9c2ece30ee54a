"""Logistic regression on a few plain features, fitted on the same training samples; to forget is to fit again."""

from __future__ import annotations

from collections.abc import Sequence

from research.evaluation.comparison.baselines import Logistic
from research.evaluation.comparison.examiner import Timed, timed
from research.evaluation.comparison.laboratory import (
    Finding,
    Forgotten,
    Removal,
    Trial,
)


class LogisticRegression:
    """`baselines.Logistic` as a row of the table."""

    def measure(self, trial: Trial, removals: Sequence[Removal]) -> Finding:
        """Well under a second for a thousand samples."""
        fitted = _fit(trial, frozenset())
        scores = timed(lambda: fitted.value.scores(trial.split.test, trial.laboratory.facts))
        return Finding(
            scores=scores.value,
            scoring_seconds=scores.seconds,
            single_scores=[],
            shards=None,
            build_seconds=fitted.seconds,
            trainable_parameters=fitted.value.coefficients,
            forgotten=tuple(Forgotten(_fit(trial, removal.samples).seconds, None) for removal in removals),
        )


def _fit(trial: Trial, without: frozenset[int]) -> Timed[Logistic]:
    left = [sample for number, sample in enumerate(trial.training) if number not in without]
    return timed(lambda: Logistic.fit(left, trial.laboratory.facts))


METHOD = LogisticRegression()

"""The share of liked titles in the history, whatever the target: nothing is built, and nothing has to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from research.evaluation.comparison import baselines
from research.evaluation.comparison.examiner import timed
from research.evaluation.comparison.laboratory import (
    Finding,
    Forgotten,
    Removal,
    Trial,
)


class LikeShare:
    """`baselines.like_share` as a row of the table."""

    def measure(self, trial: Trial, removals: Sequence[Removal]) -> Finding:
        """Immediate."""
        scores = timed(lambda: baselines.like_share(trial.training, trial.split.test, trial.laboratory.facts))
        nothing = tuple(Forgotten(0.0, None) for _ in removals)
        return Finding(scores.value, scores.seconds, [], None, 0.0, 0, nothing)


METHOD = LikeShare()

"""What is written is what is read, and the means over seeds by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from research.evaluation.comparison.results import (
    FIGURES,
    Comparison,
    Figure,
    Measured,
    StudyPoint,
    study_summary,
    summary,
)


def measured(method: str, seed: int, auc: float, **changed: Any) -> Measured:
    plain = Measured(method, seed, auc, 0.6, 0.7, 0.5, 0.65, 4, 10.0, 3.0, 2, 1.0, 1, 0.2, 4096)
    return replace(plain, **changed)


MEASURED = (
    measured("retraining", 0, 0.70, shards=1),
    measured("lethe", 0, 0.72),
    measured("like-share", 0, 0.66, shards=None, single_auc=None),
    measured("retraining", 1, 0.74, shards=1, forget_user_seconds=None),
    measured("lethe", 1, 0.73, uauc=math.nan),
    measured("like-share", 1, 0.66, shards=None, single_auc=None),
)
STUDIES = (
    StudyPoint("partition", "bekm", 0, 0.70, None),
    StudyPoint("inference_time", "sisa", 0, None, 2.0),
    StudyPoint("partition", "bekm", 1, 0.72, None),
)
COMPARISON = Comparison(
    "tiny", {"training": 8}, "m0", {"tau": 1.0}, {"torch": "2"}, "2026-01-31", (0, 1), MEASURED, STUDIES
)


def test_what_is_written_as_json_is_read_again() -> None:
    written = json.dumps(COMPARISON.to_json(), allow_nan=False)
    assert repr(Comparison.from_json(json.loads(written))) == repr(COMPARISON)  # NaN equals itself in words only


def test_means_and_deviations_over_the_seeds() -> None:
    lethe = next(one for one in summary(COMPARISON) if one.method == "lethe")
    auc = lethe.figures["auc"]
    assert auc is not None
    assert (auc.mean, auc.sd, auc.seeds) == pytest.approx((0.725, math.sqrt(2 * 0.005**2), 2))


def test_a_figure_counts_the_seeds_that_have_it() -> None:
    found = {one.method: one.figures for one in summary(COMPARISON)}
    assert found["lethe"]["uauc"] == Figure(0.6, 0.0, 1)
    assert found["retraining"]["forget_user_seconds"] == Figure(3.0, 0.0, 1)
    assert found["like-share"]["single_auc"] is None
    assert all(figures.keys() == set(FIGURES) for figures in found.values())


def test_the_difference_to_retraining_is_taken_seed_by_seed() -> None:
    deltas = {one.method: one.delta_auc for one in summary(COMPARISON)}
    lethe, retraining = deltas["lethe"], deltas["retraining"]
    assert lethe is not None
    assert (lethe.mean, lethe.sd) == pytest.approx((0.005, math.sqrt(2 * 0.015**2)))
    assert retraining == Figure(0.0, 0.0, 2)
    alone = replace(COMPARISON, measured=tuple(each for each in MEASURED if each.method == "lethe"))
    assert summary(alone)[0].delta_auc is None


def test_methods_and_bars_stay_in_the_order_in_which_they_were_measured() -> None:
    assert [one.method for one in summary(COMPARISON)] == ["retraining", "lethe", "like-share"]
    bars = study_summary(COMPARISON)
    assert [(bar.study, bar.variant) for bar in bars] == [("partition", "bekm"), ("inference_time", "sisa")]
    assert bars[0].auc is not None
    assert bars[0].auc.mean == pytest.approx(0.71)
    assert bars[0].seconds is None
    assert bars[1].seconds == Figure(2.0, 0.0, 1)

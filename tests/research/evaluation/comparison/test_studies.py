"""The studies' bars, where they can be had another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from research.evaluation.comparison.aggregation import SHARDS
from research.evaluation.comparison.examiner import Examiner
from research.evaluation.comparison.laboratory import Laboratory, Trial
from research.evaluation.comparison.methods import METHODS
from research.evaluation.comparison.partitions import SEMANTIC
from research.evaluation.comparison.shards import (
    blended_scores,
    single_scores,
    train,
    validation_errors,
)
from research.evaluation.comparison.splits import Split
from research.evaluation.comparison.studies import distances_to_centers, studies_of
from research.evaluation.metrics import auc
from service.llm.frozen import FrozenModel
from service.routing.neighbors import Neighbors
from tests.research.evaluation.comparison.conftest import CONFIG, TRAINING_SAMPLES, Observed

pytestmark = pytest.mark.thorough


@pytest.fixture
def trial(laboratory: Laboratory, split: Split, tmp_path: Path) -> Trial:
    examiner = Examiner(split, laboratory.frozen, CONFIG.lora_targets)
    return Trial(laboratory, split, split.digest, TRAINING_SAMPLES, 0, tmp_path / "out", examiner)


def test_bars_that_mean_the_same_are_the_same_and_every_bar_is_there(
    trial: Trial, split: Split, process_pool: Observed
) -> None:
    points = [point() for point in studies_of(trial)]
    found = {(point.study, point.variant): point for point in points}
    assert [variant for study, variant in found if study == "partition"] == ["semantic", "random", "user", "bekm"]
    assert [variant for study, variant in found if study == "weights"] == ["adaptive", "average", "best", "semantic"]
    sizes = ["16 D", "16 ND", "8 D", "8 ND", "4 D", "4 ND"]  # of 32 samples
    assert [variant for study, variant in found if study == "shard_size"] == sizes
    liked = [sample.liked for sample in split.test]
    apa = {level: auc(METHODS[f"apa-{level.lower()}"].measure(trial, ()).scores, liked) for level in ("D", "ND")}
    same = (("partition", "semantic"), ("weights", "adaptive"), ("shard_size", "8 ND"), ("routing", "context"))
    assert {found[bar].auc for bar in same} == {apa["ND"]}
    assert found["shard_size", "8 D"].auc == apa["D"]
    times = {variant: point.seconds for (study, variant), point in found.items() if study == "inference_time"}
    assert list(times) == ["retraining", "sisa", "apa-d", "apa-nd"]
    for name, seconds in times.items():
        assert seconds == trial.per_500(METHODS[name].measure(trial, ()).scoring_seconds)
    assert len(process_pool.trained()) == 1 + 4 * SHARDS + 2 + 8  # whole, four partitions, two further sizes: each once


def test_the_best_one_is_who_errs_least_near_the_sample(trial: Trial, split: Split) -> None:
    trained = train(trial, SEMANTIC, SHARDS)
    errors, single = validation_errors(trial, trained).value, single_scores(trial, trained).value
    queries, rows = trial.examiner.test_embeddings.value, trial.examiner.validation_embeddings
    scores = []
    for number, query in enumerate(queries):
        near = np.argsort(-(rows @ query), kind="stable")[: CONFIG.top_n]
        scores.append(single[int(errors[near].mean(axis=0).argmin())][number])
    best = next(point() for point in studies_of(trial) if point().variant == "best")
    assert best.auc == auc(scores, [sample.liked for sample in split.test])


def test_the_whole_prompt_routes_by_its_own_neighbours(trial: Trial, split: Split, frozen: FrozenModel) -> None:
    trained = train(trial, SEMANTIC, SHARDS)
    errors, tokenizer = validation_errors(trial, trained).value, frozen.tokenizer
    queries, rows = (
        np.concatenate(
            [
                frozen.embed([tokenizer.context(s.history, "movie") + tokenizer.question(s.target, "movie")])
                for s in samples
            ]
        )
        for samples in (split.test, split.valid)
    )
    near = [np.argsort(-(rows @ query), kind="stable")[: CONFIG.top_n] for query in queries]
    weights = np.exp(-CONFIG.tau * np.array([errors[row].mean(axis=0) for row in near]))
    weights /= weights.sum(axis=1, keepdims=True)
    scores = blended_scores(trial, trained, weights.astype(np.float32), "ND").value
    prompt = next(point for point in studies_of(trial) if point().variant == "prompt")
    assert prompt().auc == auc(scores, [sample.liked for sample in split.test])
    by_contexts = Neighbors(trial.examiner.validation_embeddings).nearest(
        trial.examiner.test_embeddings.value, CONFIG.top_n
    )
    assert any(set(row) != set(other) for row, other in zip(near, by_contexts, strict=True))


def test_a_shards_own_center_is_nearest_on_the_whole(trial: Trial) -> None:
    distances = distances_to_centers(trial, train(trial, SEMANTIC, SHARDS))
    assert distances.shape == (len(trial.split.test), SHARDS)
    assert (distances >= -1e-6).all()
    assert np.ptp(distances, axis=1).min() > 0

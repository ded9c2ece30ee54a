"""The APA paper's studies (Hu et al. 2024) and one of our own, on the adapters that the compared methods share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from research.evaluation.comparison.aggregation import SHARDS
from research.evaluation.comparison.laboratory import Trial
from research.evaluation.comparison.methods import METHODS
from research.evaluation.comparison.partitions import (
    BEKM,
    RANDOM,
    SEMANTIC,
    USER_BASED,
    Partitioning,
)
from research.evaluation.comparison.results import StudyPoint, plain
from research.evaluation.comparison.shards import (
    Doubles,
    Trained,
    adaptive_scores,
    blended_scores,
    neighbor_errors,
    sharpened,
    single_scores,
    train,
    validation_errors,
)
from service.records import Level
from service.routing.neighbors import Neighbors
from service.routing.weights import mean_errors

Point = Callable[[], StudyPoint]

_SHARD_COUNTS = (2, 4, 8)  # of 1,024 samples: 512, 256 and 128 each
_TIMED = ("retraining", "sisa", "apa-d", "apa-nd")


def studies_of(trial: Trial) -> list[Point]:
    """Every bar and dot of one seed, computed when it is called and kept in the trial's notebook."""
    return [
        *_partitions(trial),
        *_weights(trial),
        *_shard_sizes(trial),
        *_routing_keys(trial),
        *_inference_times(trial),
    ]


def _partitions(trial: Trial) -> Iterator[Point]:
    """Fig. 4: four partitions, each with adaptive weights at level ND."""
    for partitioning in (SEMANTIC, RANDOM, USER_BASED, BEKM):
        yield _auc_of(trial, "partition", partitioning.name, partial(_adaptive, trial, partitioning, SHARDS, "ND"))


def _weights(trial: Trial) -> Iterator[Point]:
    """Fig. 5: four ways to weigh the adapters of the semantic partition at level ND."""
    yield _auc_of(trial, "weights", "adaptive", partial(_adaptive, trial, SEMANTIC, SHARDS, "ND"))
    yield _auc_of(trial, "weights", "average", partial(_averaged, trial))
    yield _auc_of(trial, "weights", "best", partial(_best_alone, trial))
    yield _auc_of(trial, "weights", "semantic", partial(_by_similarity, trial))


def _shard_sizes(trial: Trial) -> Iterator[Point]:
    """Fig. 6: the semantic partition under three caps, at both levels."""
    for count in _SHARD_COUNTS:
        cap = math.ceil(len(trial.training) / count)
        for level in ("D", "ND"):
            yield _auc_of(trial, "shard_size", f"{cap} {level}", partial(_adaptive, trial, SEMANTIC, count, level))


def _routing_keys(trial: Trial) -> Iterator[Point]:
    """Neighbors by the context, as they are served, or by the whole prompt, which would route every candidate by itself."""
    yield _auc_of(trial, "routing", "context", partial(_adaptive, trial, SEMANTIC, SHARDS, "ND"))
    yield _auc_of(trial, "routing", "prompt", partial(_routed_by_prompts, trial))


def _inference_times(trial: Trial) -> Iterator[Point]:
    """Fig. 3b: seconds for 500 test samples."""
    for name in _TIMED:
        yield partial(_seconds_of, trial, name)


def _adaptive(trial: Trial, partitioning: Partitioning, count: int, level: Level) -> list[float]:
    return adaptive_scores(trial, train(trial, partitioning, count), level).value


def _averaged(trial: Trial) -> list[float]:
    trained = train(trial, SEMANTIC, SHARDS)
    count = len(trained.digests)
    equal = np.full((len(trial.split.test), count), 1 / count, np.float32)
    return blended_scores(trial, trained, equal, "ND").value


def _best_alone(trial: Trial) -> list[float]:
    """For each sample the one adapter that errs least near it; one-hot weights are that adapter alone."""
    trained = train(trial, SEMANTIC, SHARDS)
    best = neighbor_errors(trial, trained).value.argmin(axis=1)
    single = single_scores(trial, trained).value
    return [single[k][sample] for sample, k in enumerate(best.tolist())]


def _routed_by_prompts(trial: Trial) -> list[float]:
    trained, examiner = train(trial, SEMANTIC, SHARDS), trial.examiner
    rows = Neighbors(examiner.whole_validation_embeddings)
    near = rows.nearest(examiner.whole_test_embeddings, trial.config.top_n)
    weights = sharpened(mean_errors(validation_errors(trial, trained).value, near), trial.config.tau)
    return blended_scores(trial, trained, weights, "ND").value


def _by_similarity(trial: Trial) -> list[float]:
    """Eq. 8 with the cosine distance to each shard's center in the place of its error."""
    trained = train(trial, SEMANTIC, SHARDS)
    weights = sharpened(distances_to_centers(trial, trained), trial.config.tau)
    return blended_scores(trial, trained, weights, "ND").value


def distances_to_centers(trial: Trial, trained: Trained) -> Doubles:
    """Cosine distance of the N test samples to the center of each shard's training samples, (N, K)."""
    rows = trial.embeddings.value.astype(np.float64)
    centers = np.array([rows[list(shard)].mean(axis=0) for shard in trained.shards])
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    distances: Doubles = 1.0 - trial.examiner.test_embeddings.value @ centers.T
    return distances


def _auc_of(trial: Trial, study: str, variant: str, score: Callable[[], list[float]]) -> Point:
    def point() -> StudyPoint:
        inputs = {**trial.identity, "study": study, "variant": variant}
        auc = trial.notebook.recall("study", inputs, lambda: plain(trial.examiner.quality(score()).auc))
        return StudyPoint(study, variant, trial.seed, auc, None)

    return point


def _seconds_of(trial: Trial, method: str) -> StudyPoint:
    seconds = trial.per_500(METHODS[method].measure(trial, ()).scoring_seconds)
    return StudyPoint("inference_time", method, trial.seed, None, seconds)

"""A partition's adapters: trained once, scored alone, weighted by their neighbors' errors, blended, and retrained.

Results are kept under the digests of the adapters, so that methods and studies share what they have in common. The seconds
are kept with them: those of the making itself, however often a result is found again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store import Store
from research.evaluation.comparison.examiner import Floats, Timed, timed
from research.evaluation.comparison.laboratory import Forgotten, Removal, Trial
from research.evaluation.comparison.partitions import Partitioning, Pool
from service.arrays import load_array
from service.building.progress import Silent
from service.building.training.training import EncodedSample
from service.building.training.validation_table import KnownRows, RowMaker, ValidationUser, WantedRows
from service.data.samples import canonical_order
from service.llm.mixture import AdapterStack, load_adapter
from service.records import Level, ModelIdentity, Shard
from service.routing.neighbors import Neighbors
from service.routing.weights import mean_errors, softmax_weights

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trained:
    """K shards and their adapters, which lie in the trial's store."""

    shards: tuple[tuple[int, ...], ...]  # numbers of training samples
    digests: tuple[str, ...]  # of the adapters, in the same order
    seconds: float  # of partition and training


def train(trial: Trial, partitioning: Partitioning, count: int) -> Trained:
    """Cut the training samples into `count` shards and train an adapter on each, unless that was done before."""
    inputs = {**trial.samples_identity, **trial.laboratory.identity, "name": partitioning.name, "count": count}
    cut = trial.notebook.recall("partition", inputs, lambda: _cut(trial, partitioning, count))
    shards = tuple(tuple(numbers) for numbers in cut["shards"])
    maker, item_type, config = trial.adapters(trial.store), trial.split.item_type, trial.papers_config
    named = [(maker.digest(shard, item_type, config), shard) for shard in _samples_of(trial, shards)]
    by_digest = dict(named)
    seconds = trial.notebook.recall("training", {"adapters": sorted(by_digest)}, lambda: _train_all(trial, by_digest))
    # None is missing here, unless somebody took it out of the store.
    maker.train({digest: by_digest[digest] for digest in maker.missing(list(by_digest))}, item_type, config)
    return Trained(shards, tuple(digest for digest, _ in named), cut["seconds"] + seconds)


def parameters(trial: Trial, trained: Trained) -> int:
    """Trainable parameters of all K adapters."""
    adapters = (load_adapter(trial.store.adapters.path(digest)) for digest in trained.digests)
    return sum(tensor.numel() for adapter in adapters for tensor in adapter.values())


def single_scores(trial: Trial, trained: Trained) -> Timed[list[list[float]]]:
    """P(Yes) of the N test samples under each of K adapters alone: (K, N), by K passes."""
    found = [_alone(trial, digest) for digest in trained.digests]
    return Timed([each.value for each in found], sum(each.seconds for each in found))


def validation_errors(trial: Trial, trained: Trained) -> Timed[Floats]:
    """errors[v, k] = 1 − P(y|x) of adapter k on validation sample v, (V, K) in the order of the split."""
    kept = trial.notebook.recall(
        "errors",
        {"adapters": list(trained.digests), "split": trial.samples_identity["split"]},
        lambda: _kept(timed(lambda: _errors(trial, trial.store, trained.digests, None).tolist())),
    )
    return Timed(np.array(kept["value"], np.float32), kept["seconds"])


def neighbor_errors(trial: Trial, trained: Trained) -> Timed[Doubles]:
    """Eq. 7: each adapter's mean error over a test sample's nearest validation samples, (N, K). Errors are not timed."""
    errors = validation_errors(trial, trained).value
    queries, rows = trial.examiner.test_embeddings, Neighbors(trial.examiner.validation_embeddings)
    found = timed(lambda: mean_errors(errors, rows.nearest(queries.value, trial.config.top_n)))
    return Timed(found.value, queries.seconds + found.seconds)


def adaptive_weights(trial: Trial, trained: Trained) -> Timed[Floats]:
    """Eq. 8: w = softmax(−tau · error), (N, K)."""
    error_k = neighbor_errors(trial, trained)
    weights = timed(lambda: sharpened(error_k.value, trial.config.tau))
    return Timed(weights.value, error_k.seconds + weights.seconds)


def sharpened(badness: Doubles, tau: float) -> Floats:
    """softmax(−tau · badness) over K columns, of which none is masked."""
    return softmax_weights(badness, tau, np.ones(badness.shape[1], np.bool_))


def adaptive_scores(trial: Trial, trained: Trained, level: Level) -> Timed[list[float]]:
    """P(Yes) of the test samples under adaptive weights, eqs. 5 to 8. The seconds hold the routing too."""
    routing = {"top_n": trial.config.top_n, "tau": trial.config.tau}

    def score() -> dict[str, Any]:
        weights = adaptive_weights(trial, trained)
        scores = blended_scores(trial, trained, weights.value, level)
        return _kept(Timed(scores.value, weights.seconds + scores.seconds))

    inputs = {"adapters": list(trained.digests), "split": trial.samples_identity["split"], **routing, "level": level}
    return Timed(**trial.notebook.recall("adaptive", inputs, score))


def blended_scores(trial: Trial, trained: Trained, weights: Floats, level: Level) -> Timed[list[float]]:
    """P(Yes) of the N test samples under weights (N, K), in one pass; without the routing."""
    return trial.examiner.scores(_stack(trial, trained.digests), weights, level)


def forget(trial: Trial, trained: Trained, removal: Removal, *, routes: bool) -> Forgotten:
    """Retrain the shards that hold a removed sample, in a scratch store; with their error columns where weights need them.

    The partition stays as it was recorded.
    """
    touched = [shard for shard in trained.shards if removal.samples.intersection(shard)]
    inputs = {
        "adapters": list(trained.digests),
        "removed": sorted(removal.samples),
        "removed_validation": [n for n, s in enumerate(trial.split.valid) if s.user_id == removal.user],
        "routes": routes,
        **trial.samples_identity,
    }
    seconds = trial.notebook.recall(
        "forgetting", inputs, lambda: timed(lambda: _retrain(trial, touched, removal, routes)).seconds
    )
    return Forgotten(seconds, len(touched))


def _cut(trial: Trial, partitioning: Partitioning, count: int) -> dict[str, Any]:
    users = tuple(sample.user_id for sample in trial.training)
    read = trial.embeddings if partitioning.reads_prompts else Timed(np.zeros((0, 0), np.float32), 0.0)
    shards = timed(lambda: partitioning.shards(Pool(users, read.value), count, trial.seed))
    return {"shards": shards.value, "seconds": read.seconds + shards.seconds}


def _samples_of(trial: Trial, shards: Sequence[Sequence[int]], without: frozenset[int] = frozenset()) -> list[Shard]:
    left = [[trial.training[number] for number in shard if number not in without] for shard in shards]
    return [Shard(str(number), canonical_order(samples, trial.seed)) for number, samples in enumerate(left) if samples]


def _train_all(trial: Trial, shards: Mapping[str, Shard]) -> float:
    # Even those that an interrupted run has left: without them the time would be too short.
    maker = trial.adapters(trial.store)
    return timed(lambda: maker.train(shards, trial.split.item_type, trial.papers_config)).seconds


def _alone(trial: Trial, digest: str) -> Timed[list[float]]:
    def score() -> dict[str, Any]:
        return _kept(
            trial.examiner.scores(_stack(trial, [digest]), np.ones((len(trial.split.test), 1), np.float32), "ND")
        )

    inputs = {"adapter": digest, "split": trial.samples_identity["split"]}
    return Timed(**trial.notebook.recall("alone", inputs, score))


def _stack(trial: Trial, digests: Sequence[str]) -> AdapterStack:
    # By number: shards of people who said the same things have one digest.
    adapters = {str(number): load_adapter(trial.store.adapters.path(digest)) for number, digest in enumerate(digests)}
    return AdapterStack.of(adapters, trial.config.adapter_scaling, trial.laboratory.frozen)


def _errors(trial: Trial, store: Store, digests: Sequence[str], without: str | None) -> Floats:
    laboratory = trial.laboratory

    def files_of(digest: str) -> Mapping[str, bytes]:
        return store.adapters.stated(digest, store.adapters.sums(digest)).read()

    maker = RowMaker(files_of, laboratory.frozen.spec, laboratory.process_pool, Silent())
    encoded_samples = _validation_lessons(trial, without)
    users = [ValidationUser(user, tuple(own)) for user, own in encoded_samples.items()]
    frozen = laboratory.frozen
    known = KnownRows.of(None, ModelIdentity(frozen.tokenizer.digest, frozen.spec.dtype))
    files = maker.files(
        WantedRows(users, digests, known, lambda user: tuple(encoded_samples[user].values())), trial.papers_config
    )
    return load_array(files["errors.npy"])


def _validation_lessons(trial: Trial, without: str | None) -> dict[str, dict[str, EncodedSample]]:
    """User -> key of a row -> its lesson; rows are sorted by key."""
    encoded_samples = trial.adapters(trial.store).encoded_samples(trial.split.valid, trial.split.item_type)
    own: dict[str, dict[str, EncodedSample]] = {}
    for number, (sample, encoded) in enumerate(zip(trial.split.valid, encoded_samples, strict=True)):
        if sample.user_id != without:
            own.setdefault(sample.user_id, {})[f"{number:09}"] = encoded
    return own


def _retrain(trial: Trial, touched: Sequence[Sequence[int]], removal: Removal, routes: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch) / "store")
        maker, item_type, config = trial.adapters(store), trial.split.item_type, trial.papers_config
        shards = {
            maker.digest(shard, item_type, config): shard for shard in _samples_of(trial, touched, removal.samples)
        }
        maker.train(shards, item_type, config)
        if routes and shards:
            _errors(trial, store, list(shards), removal.user)


def _kept(found: Timed[Any]) -> dict[str, Any]:
    return {"value": found.value, "seconds": found.seconds}

"""Each method against a slower or an older way to the same figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters_store import Store
from research.evaluation.comparison.aggregation import SHARDS
from research.evaluation.comparison.examiner import Examiner
from research.evaluation.comparison.laboratory import Laboratory, Removal, Trial
from research.evaluation.comparison.methods import METHODS
from research.evaluation.comparison.partitions import RANDOM, SEMANTIC
from research.evaluation.comparison.shards import blended_scores, single_scores, train
from research.evaluation.comparison.splits import Split
from research.evaluation.metrics import auc
from research.evaluation.scoring import Unmasked, score_samples
from service.building.builder import Builder
from service.building.planning.corpus import Corpus
from service.ledger import Ledger
from service.llm.frozen import FrozenModel
from service.llm.mixture import load_adapter
from service.records import Level, Sample
from service.scoring.scorer import Scorer, Untimed
from service.scoring.snapshot import Snapshots
from tests.research.evaluation.comparison.conftest import CONFIG, TRAINING_SAMPLES, Observed

pytestmark = pytest.mark.thorough

SEED = 3
ROUNDING = 1e-5  # of a probability: products of other shapes add float32 in another order, of which a layer makes more
SHARDED = ("retraining", "sisa", "receraser", "grapheraser", "apa-d", "apa-nd")


@pytest.fixture
def trial(laboratory: Laboratory, split: Split, tmp_path: Path) -> Trial:
    examiner = Examiner(split, laboratory.frozen, CONFIG.lora_targets)
    return Trial(laboratory, split, split.digest, TRAINING_SAMPLES, SEED, tmp_path / "out", examiner)


@pytest.fixture
def built_with(laboratory: Laboratory, split: Split, tmp_path: Path) -> Callable[[], tuple[Builder, Store]]:
    """A builder of an installation that knows the catalog only."""

    def builder() -> tuple[Builder, Store]:
        ledger, store = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", b"a secret of a test"), Store(tmp_path / "store")
        ledger.import_data(split.items, [], split.item_type)
        spec, runs = laboratory.frozen.spec, laboratory.process_pool
        return Builder(ledger, store, spec, runs, b"a secret", environment=laboratory.environment), store

    return builder


def by_user(samples: Sequence[Sample]) -> dict[str, tuple[Sample, ...]]:
    return {user: tuple(s for s in samples if s.user_id == user) for user in {s.user_id for s in samples}}


# Scores


def test_sisa_is_the_mean_of_what_each_adapter_says_when_it_is_merged_into_the_model(
    trial: Trial, frozen: FrozenModel, split: Split, merged_model: Callable[..., FrozenModel]
) -> None:
    said = []
    for digest in train(trial, RANDOM, SHARDS).digests:
        adapter = load_adapter(trial.store.adapters.path(digest))
        model = merged_model(frozen, [adapter], CONFIG.lora_alpha / CONFIG.lora_rank, [1.0], "ND")
        said.append([float(torch.sigmoid(model.yes_no_logits_whole([ids])[0])) for ids in prompts_of(split, frozen)])
    assert len(said) == SHARDS
    found = METHODS["sisa"].measure(trial, ())
    assert found.scores == pytest.approx(np.mean(said, axis=0), abs=ROUNDING)
    assert np.ptp(said, axis=0).max() > 1e-3  # the adapters differ


def prompts_of(split: Split, frozen: FrozenModel) -> list[list[int]]:
    tokenizer = frozen.tokenizer
    return [tokenizer.context(s.history, "movie") + tokenizer.question(s.target, "movie") for s in split.test]


def test_one_hot_weights_are_that_adapter_alone(trial: Trial, split: Split) -> None:
    trained = train(trial, SEMANTIC, SHARDS)
    alone = single_scores(trial, trained).value
    for k in range(SHARDS):
        weights = np.eye(SHARDS, dtype=np.float32)[[k] * len(split.test)]
        for level in ("D", "ND"):
            assert blended_scores(trial, trained, weights, level).value == pytest.approx(alone[k], abs=ROUNDING)


@pytest.mark.parametrize("level", ["D", "ND"])
def test_apa_is_what_builder_and_scorer_make_of_the_papers_settings(
    level: Level, trial: Trial, split: Split, built_with: Callable[[], tuple[Builder, Store]]
) -> None:
    papers = replace(CONFIG, partition="algorithm1", unit="sample", activation="prompt", level=level)
    config = replace(papers, seed=SEED, max_shard_size=math.ceil(TRAINING_SAMPLES / SHARDS))
    drawn = split.drawn(TRAINING_SAMPLES, SEED)
    builder, store = built_with()
    corpus = Corpus(split.item_type, split.items, by_user(drawn), by_user(split.valid))
    generation = builder.build_corpus(corpus, config, fence=0).generation
    frozen = trial.laboratory.frozen
    scorer = Scorer(Unmasked(generation), Snapshots(store, frozen), frozen, Untimed())
    found = METHODS[f"apa-{level.lower()}"].measure(trial, ())
    assert found.shards == SHARDS
    assert found.scores == pytest.approx(score_samples(scorer, split.test), abs=ROUNDING)


def test_lethe_is_what_builder_and_scorer_make_of_the_settings(
    trial: Trial, split: Split, built_with: Callable[[], tuple[Builder, Store]]
) -> None:
    builder, store = built_with()
    drawn = split.drawn(TRAINING_SAMPLES, SEED)
    corpus = Corpus(split.item_type, split.items, by_user(drawn), by_user(split.valid))
    built = builder.build_corpus(corpus, replace(CONFIG, seed=SEED), fence=0)
    frozen = trial.laboratory.frozen
    scorer = Scorer(Unmasked(built.generation), Snapshots(store, frozen), frozen, Untimed())
    found = METHODS["lethe"].measure(trial, ())
    assert found.scores == pytest.approx(score_samples(scorer, split.test), abs=ROUNDING)
    assert found.shards == len(built.shards) > 1
    assert len(found.single_scores) == found.shards
    assert len({tuple(scores) for scores in [*found.single_scores, found.scores]}) == found.shards + 1


def test_the_plain_rows_stand_in_the_same_form(trial: Trial, split: Split) -> None:
    liked = [sample.liked for sample in split.test]
    for name, coefficients in (("like-share", 0), ("logistic", None)):
        found = METHODS[name].measure(trial, trial.removals())
        assert not math.isnan(auc(found.scores, liked))
        assert found.single_scores == []
        assert found.shards is None
        assert [each.shards for each in found.forgotten] == [None, None]
        assert coefficients in (None, found.trainable_parameters)


# Forgetting


@pytest.mark.parametrize("name", SHARDED)
def test_forgetting_retrains_the_shards_that_hold_what_is_removed_and_no_other(
    name: str, trial: Trial, process_pool: Observed, frozen: FrozenModel
) -> None:
    method: Any = METHODS[name]
    shards = train(trial, method.partitioning, method.count).shards
    for removal in trial.removals():
        method.measure(trial, ())
        before = len(process_pool.ran)
        [forgotten] = method.measure(trial, [removal]).forgotten
        new = process_pool.ran[before:]
        encoded_samples = [len(task.encoded_samples) for kind, task in new if kind == "train_adapter"]
        touched = [shard for shard in shards if removal.samples & set(shard)]
        left = [len(set(shard) - removal.samples) for shard in touched]
        assert forgotten.shards == len(touched) >= 1
        assert sorted(encoded_samples) == sorted(size for size in left if size)
        assert ("validate_users" in [kind for kind, _ in new]) == name.startswith("apa")
        assert forgotten.seconds > 0


def test_whoever_is_forgotten_validates_no_more(
    laboratory: Laboratory, split: Split, tmp_path: Path, process_pool: Observed
) -> None:
    both = split.train[0].user_id
    shared = replace(split, valid=(*split.valid, replace(split.valid[0], user_id=both)))
    examiner = Examiner(shared, laboratory.frozen, CONFIG.lora_targets)
    trial = Trial(laboratory, shared, shared.digest, len(shared.train), SEED, tmp_path / "out", examiner)
    own = frozenset(n for n, sample in enumerate(trial.training) if sample.user_id == both)
    for removal, rows in ((Removal(both, own), len(split.valid)), (Removal(None, own), len(shared.valid))):
        METHODS["apa-nd"].measure(trial, [removal])
        tasks = [task for kind, task in process_pool.ran if kind == "validate_users"][-process_pool.processes :]
        assert sum(len(user) for task in tasks for user in task.users) == rows


def test_lethe_forgets_by_building_without_the_person(
    trial: Trial, split: Split, built_with: Callable[[], tuple[Builder, Store]]
) -> None:
    user, _ = trial.removals()
    found = METHODS["lethe"].measure(trial, trial.removals())
    builder, _ = built_with()
    config = replace(CONFIG, seed=SEED)
    drawn = split.drawn(TRAINING_SAMPLES, SEED)
    corpora = [drawn, [sample for sample in drawn if sample.user_id != user.user]]
    with_user, without = (
        builder.build_corpus(Corpus(split.item_type, split.items, by_user(s), by_user(split.valid)), config, fence=0)
        for s in corpora
    )
    assert found.forgotten[0].shards == len(with_user.shards.keys() - without.shards.keys()) >= 1
    assert all(each.seconds > 0 for each in found.forgotten)


def test_what_is_forgotten_is_one_person_with_everything_and_one_sample(trial: Trial) -> None:
    user, sample = trial.removals()
    assert {number for number, s in enumerate(trial.training) if s.user_id == user.user} == user.samples
    assert sample.user is None
    assert len(sample.samples) == 1
    assert asdict(trial.removals()[0]) == asdict(user)

"""The control plane's simulation: the product's own code on a made-up model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from research.benchmarks.fakes import Plan, StandIn, TooLarge
from research.benchmarks.instrumented_ledger import Moment
from research.benchmarks.scale import DatabaseInUse, Simulation, Site
from service.building.planning.embedding import EmbeddingTask, embed_groups
from service.building.progress import Silent
from service.building.training.training import EncodedSample, TrainingTask, train_adapter
from service.building.training.validation import ValidationTask, validate_users
from service.llm.spec import ModelSpec
from service.records import BuildConfig

NOWHERE = ModelSpec("there is no such model")
CONFIG = BuildConfig(tree_depth=1, validation_percent=20)


@pytest.fixture
def model(tiny_models: Callable[..., Path]) -> ModelSpec:
    return ModelSpec(str(tiny_models("llama")))


@pytest.mark.thorough
def test_people_are_imported_built_and_deleted_by_the_product_itself(model: ModelSpec, tmp_path: Path) -> None:
    plan = Plan(users=60, shards=4, interactions=3, deletions=2)
    steps, shares = Simulation(Site(tmp_path), model, replace(CONFIG, partition="random"), plan, Silent()).run()
    told = {row["step"]: row for row in steps.rows}
    assert list(told) == [
        "libraries, before anything",
        "import",
        "first build, planned",
        "first build, the rest",
        "a deletion, masked",
        "a deletion, planned",
        "a deletion, completed",
        "in a new process, masked",
        "in a new process, planned",
        "in a new process, completed",
    ]
    assert told["import"]["floor rows"] == 60 * 3
    assert told["a deletion, masked"]["floor rows"] == 3
    assert told["a deletion, planned"]["floor rows"] < 60 * 3
    assert told["a deletion, completed"]["seconds"] > told["a deletion, planned"]["seconds"] > 0
    assert sum(row["share"] for row in shares.rows) == pytest.approx(1.0, abs=0.3)  # medians of two deletions
    adapters = list((tmp_path / "store" / "adapters").iterdir())
    assert f"{len(adapters)} shards" in steps.title
    assert 2 <= len(adapters) <= 8
    assert sum(b"buried" in line for line in (tmp_path / "tombstones.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.thorough
def test_a_ledger_of_its_own_database_is_as_good_and_a_second_time_in_use(
    model: ModelSpec, tmp_path: Path, new_database: Callable[[], AbstractContextManager[str]]
) -> None:
    plan, config = Plan(users=40, shards=2, interactions=3, deletions=1), replace(CONFIG, partition="random")
    with new_database() as url:
        steps, _ = Simulation(Site(tmp_path, url), model, config, plan, Silent()).run()
        assert {row["step"] for row in steps.rows} >= {"a deletion, planned", "in a new process, completed"}
        assert not (tmp_path / "ledger.sqlite").exists()
        with pytest.raises(DatabaseInUse, match="empty"):
            Simulation(Site(tmp_path, url), model, config, plan, Silent())


def test_the_cap_makes_about_so_many_shards() -> None:
    plan = Plan(users=1_000_000, shards=10_000, interactions=5)
    assert plan.config(BuildConfig(validation_percent=10)).max_shard_size == 480  # 3.6 million samples, 3/4 full


def test_what_would_not_fit_into_memory_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="GiB"):
        Simulation(Site(tmp_path), NOWHERE, BuildConfig(), Plan(users=1_000_000, shards=10_000), Silent())
    assert list(tmp_path.iterdir()) == []


def test_a_stand_in_takes_the_stated_time_to_train_and_none_for_the_rest() -> None:
    process_pool = StandIn(Plan(users=1, shards=1, training_seconds=0.01))
    encoded = EncodedSample([1, 2], [3], True)
    training = TrainingTask("f" * 64, NOWHERE, [], (encoded,), ((0,),), CONFIG)
    [(_, trained)] = process_pool.run(train_adapter, [training])
    assert process_pool.trained == 0.01
    assert trained.files == process_pool.adapter("f" * 64) != process_pool.adapter("e" * 64)
    validation = ValidationTask(NOWHERE, ("q_proj",), 1.0, "question", ((encoded, encoded),), {"a": {}, "b": {}})
    [(_, validated)] = process_pool.run(validate_users, [validation])
    [rows] = validated.users
    assert rows.embeddings.shape[0] == len(rows.errors["a"]) == len(rows.errors["b"]) == 2
    assert process_pool.trained == 0.01


def test_a_stand_in_places_texts_of_the_same_words_together() -> None:
    groups = (([1, 2, 3, 4],), ([1, 2, 3, 5],), ([90, 91, 92, 93],), ([1, 2, 3, 4],))
    [(_, placed)] = StandIn(Plan(users=1, shards=1)).run(embed_groups, [EmbeddingTask(NOWHERE, groups)])
    one, near, far, same = placed
    assert np.array_equal(one, same)
    assert one @ near > one @ far
    assert np.linalg.norm(placed, axis=1) == pytest.approx(1.0)


def test_what_was_slept_through_is_left_out() -> None:
    assert Moment(10.0, 3.0).since(Moment(4.0, 1.0), waited=5.0) == Moment(1.0, 2.0)

"""The table's numbers against partitions that are made again from nothing, and counted slowly."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from research.evaluation.placement import (
    SHARD_COUNTS,
    Placed,
    Touch,
    balance,
    cap_for,
    placement_table,
    recorded_row,
    touch,
    tree_row,
)
from service.building.planning import partition
from service.building.planning.corpus import Corpus
from service.building.planning.placement import ShardAssigner, Unit, units_of
from service.building.progress import Silent
from service.building.workers.process_pool import ProcessPool
from service.ledger import Ledger
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import BuildConfig, Item, Partition, RatedItem, Sample, UnitKind

pytestmark = pytest.mark.thorough

ITEMS = tuple(Item(f"item-{number}", f"Film {number} (19{50 + number})", None, ("Drama",)) for number in range(20))
PEOPLE = tuple(f"person-{number:02}" for number in range(40))
SEED = 3


def _samples(user: str) -> tuple[Sample, ...]:
    chance = random.Random(user)
    opinions = [RatedItem(item, chance.random() < 0.5) for item in chance.sample(ITEMS, 6)]
    return tuple(
        Sample(user, tuple(opinions[:n]), opinions[n].item, opinions[n].liked) for n in range(1, chance.randint(3, 6))
    )


TRAINING = {user: _samples(user) for user in PEOPLE}


def _placed(unit: UnitKind, without: str | None = None) -> Placed:
    """Everybody but `without`, placed from nothing; a unit stands where its key says."""
    training = {user: own for user, own in TRAINING.items() if user != without}
    units = units_of(training, "movie", BuildConfig(unit=unit, seed=SEED))
    rows = [np.random.default_rng(list(each.key.encode())).normal(size=6) for each in units]
    anchors = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    tree = partition.PublicTree.through(anchors, 2)
    unit_rows = [row / np.linalg.norm(row) for row in rows]
    return Placed.of(units, np.array(unit_rows, np.float32), tree, SEED)


def _sample_lists(placed: Placed, name: Partition, cap: int) -> list[list[tuple[str, str]]]:
    """Each shard as the sorted list of its samples."""
    sizes = {unit.key: len(unit.samples) for unit in placed.units}
    names = partition.shards_of_paths(placed.paths[name], sizes, cap)
    shards: dict[str, list[tuple[str, str]]] = {}
    for unit in placed.units:
        shards.setdefault(names[unit.key], []).extend((s.user_id, s.target.item_id) for s in unit.samples)
    return [sorted(samples) for samples in shards.values()]


@pytest.mark.parametrize("count", [4, 16])
@pytest.mark.parametrize("name", ["tree", "random"])
@pytest.mark.parametrize("unit", ["user", "sample"])
def test_a_trees_row_counts_what_partitions_made_from_nothing_differ_in(
    unit: UnitKind, name: Partition, count: int
) -> None:
    row = tree_row(unit, name, _placed(unit), count, PEOPLE)
    before = _sample_lists(_placed(unit), name, row.max_shard_size)
    touched, retrained, merges = [], [], 0
    for person in PEOPLE:
        after = _sample_lists(_placed(unit, without=person), name, row.max_shard_size)
        touched.append(sum(shard not in after for shard in before))
        new = [shard for shard in after if shard not in before]
        retrained.append(len(new))
        merges += any(sum(bool(set(map(tuple, shard)) & set(map(tuple, old))) for old in before) > 1 for shard in new)
    loads = [len(shard) for shard in before]
    assert row.shards == len(before)
    assert row.largest_over_mean == pytest.approx(max(loads) / (sum(loads) / len(loads)))
    assert row.touched_mean == pytest.approx(sum(touched) / 40)
    assert row.touched_max == max(touched)
    assert row.retrained_mean == pytest.approx(sum(retrained) / 40)
    assert (row.people, row.merges) == (40, merges)


@pytest.mark.parametrize("unit", ["user", "sample"])
def test_a_recorded_row_counts_the_shards_that_hold_a_sample_of_the_person(unit: UnitKind) -> None:
    placed = _placed(unit)
    row = recorded_row(unit, placed, 4, PEOPLE, SEED)
    sizes = [len(each.samples) for each in placed.units]
    numbers = partition.algorithm1(placed.embeddings, sizes, row.max_shard_size, SEED)
    pairs = {(each.user_id, number) for each, number in zip(placed.units, numbers, strict=True)}
    touched = [sum(user == person for user, _ in pairs) for person in PEOPLE]
    assert row.shards == len(set(numbers)) == 4
    assert (row.touched_mean, row.touched_max) == (sum(touched) / 40, max(touched))
    assert row.touched_max == 1 or unit == "sample"


def test_two_shards_that_become_one_are_a_merge() -> None:
    before = {"a": "00", "b": "00", "c": "01", "d": "1"}
    assert touch(before, {"a": "0", "c": "0", "d": "1"}) == Touch(touched=2, retrained=1, merged=True)


def test_a_shard_that_vanishes_is_touched_and_needs_no_training() -> None:
    assert touch({"a": "0", "b": "1"}, {"b": "1"}) == Touch(touched=1, retrained=0, merged=False)


def test_a_shard_that_keeps_its_samples_under_another_name_is_not_touched() -> None:
    before = {"a": "00", "b": "01", "c": "01"}
    assert touch(before, {"b": "0", "c": "0"}) == Touch(touched=1, retrained=0, merged=False)


def test_balance_counts_samples_not_units() -> None:
    assert balance({"a": "0", "b": "0", "c": "1"}, {"a": 1, "b": 1, "c": 6}) == 1.5


@pytest.mark.parametrize("count", SHARD_COUNTS)
def test_the_cap_gives_about_the_shards_that_were_asked_for_and_room_for_the_largest_unit(count: int) -> None:
    sizes = {str(number): 1 + number % 16 for number in range(900)}
    cap = cap_for(count, lambda t: -(-sum(sizes.values()) // t), sizes)
    assert 0.85 < -(-sum(sizes.values()) // cap) / count < 1.15
    assert cap >= 16


def test_the_cap_is_never_below_the_largest_unit() -> None:
    assert cap_for(64, lambda t: -(-30 // t), {"a": 10, "b": 10, "c": 10}) == 10


def test_the_table_describes_the_partitions_that_a_build_would_make(
    tiny_models: Callable[..., Path], tmp_path: Path
) -> None:
    model = ModelSpec(str(tiny_models("llama")))
    config = BuildConfig(tree_depth=2, history_length=3, seed=SEED)
    with Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", b"a secret of the tests") as ledger:
        process_pool = ProcessPool(
            2, ("service.building.training.training", "service.building.training.validation_table")
        )
        assigner = ShardAssigner(ledger, PromptTokenizer.load(model), model, process_pool, Silent(), {})
        rows = placement_table(Corpus("movie", ITEMS, TRAINING, {}), assigner, config, ["user"], 5, Silent())
        units = units_of(TRAINING, "movie", config)
        four = [row for row in rows if row.partition in ("tree", "algorithm1")][::4]
        for row in four:
            stated = replace(config, partition=row.partition, max_shard_size=row.max_shard_size)
            shards = assigner.assign(units, ITEMS, "movie", stated)
            assert len(set(shards.values())) == row.shards
            assert balance(shards, {unit.key: len(unit.samples) for unit in units}) == row.largest_over_mean
    assert [(row.unit, row.partition) for row in rows[::4]] == [
        ("user", "tree"),
        ("user", "random"),
        ("user", "algorithm1"),
    ]
    assert len(rows) == 3 * len(SHARD_COUNTS)
    assert {row.people for row in rows} == {5}


def test_units_are_in_the_order_of_their_users_and_hold_every_sample_once() -> None:
    for unit in ("user", "sample"):
        units: list[Unit] = units_of(TRAINING, "movie", BuildConfig(unit=unit))
        assert [user for each in units for user in {s.user_id for s in each.samples}] == [u.user_id for u in units]
        assert [s for each in units for s in each.samples] == [s for user in PEOPLE for s in TRAINING[user]]
        assert len({each.key for each in units}) == len(units)

"""Every partition holds every sample once; who promises balance keeps it, and who keeps users together does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.evaluation.comparison.partitions import (
    BEKM,
    RANDOM,
    SEMANTIC,
    USER_BASED,
    WHOLE,
    Partitioning,
    Pool,
)

ALL = (WHOLE, RANDOM, SEMANTIC, USER_BASED, BEKM)


def pool(samples: int, users: int, seed: int) -> Pool:
    chance = np.random.default_rng(seed)
    rows = chance.normal(size=(samples, 6)).astype(np.float32)
    names = tuple(f"u{chance.integers(users)}" for _ in range(samples))
    return Pool(names, rows / np.linalg.norm(rows, axis=1, keepdims=True))


pools = st.builds(pool, st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))


@pytest.mark.parametrize("partitioning", ALL, ids=lambda one: one.name)
@settings(max_examples=25)
@given(pools, st.integers(1, 6), st.integers(0, 3))
def test_every_sample_is_in_one_shard_and_no_shard_is_empty(
    partitioning: Partitioning, people: Pool, count: int, seed: int
) -> None:
    shards = partitioning.shards(people, count, seed)
    assert sorted(number for shard in shards for number in shard) == list(range(len(people.users)))
    assert all(shards)
    assert len(shards) <= count


@settings(max_examples=25)
@given(pools, st.integers(1, 6), st.integers(0, 3))
def test_shards_are_as_balanced_as_promised(people: Pool, count: int, seed: int) -> None:
    samples, users = len(people.users), len(set(people.users))
    for partitioning in (RANDOM, SEMANTIC, BEKM):
        assert max(map(len, partitioning.shards(people, count, seed))) <= math.ceil(samples / count)
    by_users = [{people.users[n] for n in shard} for shard in USER_BASED.shards(people, count, seed)]
    assert max(map(len, by_users)) <= math.ceil(users / min(count, users))
    assert sum(map(len, by_users)) == users  # nobody is in two shards


@pytest.mark.parametrize("partitioning", [RANDOM, SEMANTIC, USER_BASED, BEKM], ids=lambda one: one.name)
def test_the_seed_decides(partitioning: Partitioning) -> None:
    people = pool(40, 12, 0)
    assert partitioning.shards(people, 4, 1) == partitioning.shards(people, 4, 1)
    assert partitioning.shards(people, 4, 1) != partitioning.shards(people, 4, 2)


@pytest.mark.parametrize("partitioning", [SEMANTIC, USER_BASED, BEKM], ids=lambda one: one.name)
def test_neighbours_are_kept_together(partitioning: Partitioning) -> None:
    chance = np.random.default_rng(0)
    rows = np.repeat(np.eye(2, 6), 20, axis=0) + chance.normal(size=(40, 6)) / 20
    users = tuple(f"u{n // 4}" for n in range(40))
    people = Pool(users, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    assert sorted(partitioning.shards(people, 2, 0)) == [tuple(range(20)), tuple(range(20, 40))]

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.building.planning.partition import (
    ANCHORS,
    HASH_BITS,
    PublicTree,
    algorithm1,
    anchor_histories,
    fill,
    hash_path,
    shards_of_paths,
)
from service.records import Item

units_of_samples = st.dictionaries(st.text(max_size=6), st.integers(1, 6), min_size=1, max_size=40)
caps = st.integers(1, 30)


def _paths(units: Iterable[str], semantic: int = 0) -> dict[str, str]:
    # As the builder makes them: some semantic bits, then the bits of a hash.
    return {key: format(len(key) % 2**semantic, f"0{semantic}b")[:semantic] + hash_path(key, 0) for key in units}


def _members(shards: Mapping[str, str]) -> dict[str, set[str]]:
    members: dict[str, set[str]] = {}
    for unit, node in shards.items():
        members.setdefault(node, set()).add(unit)
    return members


def _unit_rows(count: int, width: int = 8, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _items(count: int) -> list[Item]:
    return [Item(str(number), f"Film {number}") for number in range(count)]


# Nodes of the tree


@given(units_of_samples, caps, st.integers(0, 2), st.randoms(use_true_random=False))
def test_removing_a_unit_changes_only_its_own_shard_or_merges_the_nodes_above_it(
    sizes: dict[str, int], cap: int, semantic: int, chance: random.Random
) -> None:
    paths = _paths(sizes, semantic)
    gone = chance.choice(sorted(sizes))
    before = shards_of_paths(paths, sizes, cap)
    rest = {key: size for key, size in sizes.items() if key != gone}
    after = shards_of_paths({key: paths[key] for key in rest}, rest, cap)
    assert after.keys() == rest.keys()
    for key in rest:
        if after[key] != before[key]:
            # It moved up, to a node that stood above the lost unit.
            assert before[key].startswith(after[key])
            assert before[gone].startswith(after[key])
    moved = {key for key in rest if after[key] != before[key]}
    assert len({after[key] for key in moved}) <= 1
    for node, members in _members(before).items():
        if node != before[gone] and not members & moved:
            assert _members(after)[node] == members


@given(units_of_samples, st.text(max_size=6))
def test_a_units_path_does_not_depend_on_the_other_units(sizes: dict[str, int], key: str) -> None:
    assert len(hash_path(key, 0)) == HASH_BITS
    assert _paths({**sizes, key: 1})[key] == _paths({key: 1})[key]


@given(units_of_samples, caps)
def test_no_shard_is_above_the_cap_unless_one_unit_alone_is(sizes: dict[str, int], cap: int) -> None:
    for members in _members(shards_of_paths(_paths(sizes), sizes, cap)).values():
        assert sum(sizes[key] for key in members) <= cap or len(members) == 1


@given(units_of_samples, caps)
def test_a_shard_is_the_shallowest_node_that_is_small_enough(sizes: dict[str, int], cap: int) -> None:
    paths = _paths(sizes)
    for node in set(shards_of_paths(paths, sizes, cap).values()) - {""}:
        assert sum(size for key, size in sizes.items() if paths[key].startswith(node[:-1])) > cap


@given(units_of_samples, caps, st.randoms(use_true_random=False))
def test_shards_do_not_depend_on_the_order_of_units(sizes: dict[str, int], cap: int, chance: random.Random) -> None:
    paths = _paths(sizes)
    keys = list(sizes)
    chance.shuffle(keys)
    shuffled = shards_of_paths({key: paths[key] for key in keys}, {key: sizes[key] for key in keys}, cap)
    assert shuffled == shards_of_paths(paths, sizes, cap)


def _shards_slowly(node: str, paths: Mapping[str, str], sizes: Mapping[str, int], cap: int) -> dict[str, str]:
    inside = {key for key, path in paths.items() if path.startswith(node)}
    if sum(sizes[key] for key in inside) <= cap or all(paths[key] == node for key in inside):
        return dict.fromkeys(inside, node)
    return {k: v for bit in "01" for k, v in _shards_slowly(node + bit, paths, sizes, cap).items()}


@given(units_of_samples, caps, st.integers(0, 2), st.integers(2, HASH_BITS))
def test_shards_are_those_of_going_down_the_tree_node_by_node(
    sizes: dict[str, int], cap: int, semantic: int, length: int
) -> None:
    paths = {key: path[:length] for key, path in _paths(sizes, semantic).items()}  # cut, some people share a leaf
    assert shards_of_paths(paths, sizes, cap) == _shards_slowly("", paths, sizes, cap)


def test_every_unit_has_a_shard() -> None:
    sizes = {str(number): 1 for number in range(500)}
    assert shards_of_paths(_paths(sizes), sizes, 16).keys() == sizes.keys()
    assert shards_of_paths({}, {}, 16) == {}


def test_other_seeds_give_other_paths() -> None:
    assert hash_path("someone", 0) != hash_path("someone", 1)


# Planes


@given(st.integers(2, 64), st.integers(1, 4), st.integers(0, 99))
def test_every_plane_halves_the_anchors_of_its_node(count: int, depth: int, seed: int) -> None:
    anchors = _unit_rows(count, seed=seed)
    tree = PublicTree.through(anchors, depth)
    inside = [tree.path(anchor) for anchor in anchors]
    for node in tree.planes:
        left, right = (sum(path.startswith(node + bit) for path in inside) for bit in "01")
        assert abs(left - right) <= 1
        assert min(left, right) >= 1


def test_the_semantic_path_is_as_long_as_the_tree_is_deep() -> None:
    tree = PublicTree.through(_unit_rows(64), 3)
    assert {len(tree.path(row)) for row in _unit_rows(50, seed=1)} == {3}
    assert len({tree.path(row) for row in _unit_rows(50, seed=1)}) == 8


def test_the_semantic_path_depends_on_the_embedding_alone() -> None:
    tree, again = PublicTree.through(_unit_rows(64), 3), PublicTree.through(_unit_rows(64), 3)
    rows = _unit_rows(20, seed=1)
    forwards = [tree.path(row) for row in rows]
    backwards = [again.path(row.copy()) for row in rows[::-1]]
    assert forwards == backwards[::-1]


def test_anchors_that_cannot_be_told_apart_are_not_split() -> None:
    assert PublicTree.through(np.ones((8, 4), dtype=np.float32), 3).planes == {}
    assert PublicTree.through(_unit_rows(1), 3).path(_unit_rows(1)[0]) == ""


# Anchors


def test_anchors_do_not_depend_on_the_order_of_the_catalog() -> None:
    items = _items(700)
    shuffled = random.Random(0).sample(items, len(items))
    assert anchor_histories(items, 5, 0) == anchor_histories(shuffled, 5, 0)


def test_anchors_are_made_of_the_catalog_and_differ() -> None:
    items = _items(50)
    anchors = anchor_histories(items, 5, 0)
    assert len(anchors) == ANCHORS
    assert {len(anchor) for anchor in anchors} == {5}
    assert {opinion.item for anchor in anchors for opinion in anchor} <= set(items)
    assert len({tuple(anchor) for anchor in anchors}) == ANCHORS
    assert {opinion.liked for anchor in anchors for opinion in anchor} == {True, False}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_small_catalog_has_short_anchors(count: int) -> None:
    anchors = anchor_histories(_items(count), 5, 0)
    assert {len(anchor) for anchor in anchors} == ({count} if count else set())


# Algorithm 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 9))
def test_single_samples_fill_exactly_the_shards_that_the_cap_demands(count: int, cap: int, seed: int) -> None:
    shards = algorithm1(_unit_rows(count, seed=seed), [1] * count, cap, seed)
    sizes = [shards.count(number) for number in range(math.ceil(count / cap))]
    assert sum(sizes) == count
    assert max(sizes) <= cap


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 20))
def test_every_unit_is_assigned_once_and_never_above_the_cap(sizes: list[int], cap: int) -> None:
    shards = algorithm1(_unit_rows(len(sizes)), sizes, cap, 0)
    assert len(shards) == len(sizes)
    for number in range(max(shards) + 1):
        inside = [size for size, shard in zip(sizes, shards, strict=True) if shard == number]
        assert sum(inside) <= cap or len(inside) == 1


def test_algorithm1_is_deterministic() -> None:
    rows = _unit_rows(40)
    assert algorithm1(rows, [1] * 40, 7, 5) == algorithm1(rows.copy(), [1] * 40, 7, 5)


def test_algorithm1_puts_together_what_is_near() -> None:
    center = np.repeat(np.eye(8)[:3], 10, axis=0)
    rows = (center + 0.05 * _unit_rows(30)).astype(np.float32)
    shards = algorithm1(rows, [1] * 30, 10, 1)
    together = [len({*shards[start : start + 10]}) for start in (0, 10, 20)]
    assert sorted(shards.count(number) for number in set(shards)) == [10, 10, 10]
    assert min(together) == 1


# Greedy filling


def test_the_nearest_pair_goes_first_and_a_full_shard_takes_no_more() -> None:
    centers = np.eye(2)
    embeddings = np.array([[0.8, 0.6], [1.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    assert fill(embeddings, [1, 1, 1], centers, [0, 0], 1) == [2, 0, 1]


def test_filling_counts_what_is_there_already() -> None:
    centers = np.eye(2)
    embeddings = np.array([[1.0, 0.0], [0.9, 0.1]], dtype=np.float32)
    assert fill(embeddings, [1, 1], centers, [3, 0], 4) == [0, 1]
    assert fill(embeddings, [1, 1], centers, [4, 0], 4) == [1, 1]


def test_units_that_fit_nowhere_share_a_further_shard() -> None:
    embeddings = np.array([[1.0, 0.0]] * 3, dtype=np.float32)
    assert fill(embeddings, [2, 2, 2], np.eye(2), [3, 3], 4) == [2, 2, 3]

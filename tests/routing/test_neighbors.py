"""One promise of two indexes: the processor's, and a clone of it that behaves as a GPU's (no selectors, few rows a search)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.routing.neighbors import ON_CPU, IndexPlace, Neighbors, index_place, takes_selectors, tried

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
MOST = 12  # rows that one search of the clones gives, so that some searches are more than they can

Search = tuple[int, set[int], int, int]  # rows, the excluded among them, neighbors wanted, seed


class LikeAGpu:
    """A flat index without selectors that gives few rows at once, as faiss's on GPUs."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def search(self, queries: Floats, n: int, *, params: Any = None) -> tuple[Floats, Indices]:
        if params is not None or n > MOST:
            raise RuntimeError("not on this index")
        found: tuple[Floats, Indices] = self._index.search(queries, n)
        return found


class Deaf(LikeAGpu):
    """Takes a selector and gives what it excludes all the same."""

    def search(self, queries: Floats, n: int, *, params: Any = None) -> tuple[Floats, Indices]:
        return super().search(queries, n)


class Selecting(LikeAGpu):
    """With selectors, as a later version may have them."""

    def search(self, queries: Floats, n: int, *, params: Any = None) -> tuple[Floats, Indices]:
        if n > MOST:
            raise RuntimeError("not on this index")
        found: tuple[Floats, Indices] = self._index.search(queries, n, params=params)
        return found


class Wrong(LikeAGpu):
    """Finds the rows farthest away."""

    def search(self, queries: Floats, n: int, *, params: Any = None) -> tuple[Floats, Indices]:
        return super().search(-queries, n, params=params)


class Broken(LikeAGpu):
    """Fails at every search, as where the driver is too old for the library."""

    def search(self, queries: Floats, n: int, *, params: Any = None) -> tuple[Floats, Indices]:
        raise RuntimeError("no kernel image is available")


def full(index: Any) -> LikeAGpu:
    raise RuntimeError("out of memory")


PLACES = {
    "cpu": ON_CPU,
    "like a GPU": IndexPlace("gpu", LikeAGpu, MOST),
    "deaf": IndexPlace("gpu", Deaf, MOST),
    "selecting": IndexPlace("gpu", Selecting, MOST),
    "full": IndexPlace("gpu", full, MOST),
}
RECORDED = [[179, 101, 75, 46, 191], [55, 90, 137, 99, 162], [175, 194, 32, 73, 151]]
RECORDED_WITHOUT_THE_NEAREST = [[101, 75, 46, 191, 153], [90, 137, 99, 162, 121], [194, 32, 73, 151, 82]]
everywhere = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())


def _unit_rows(count: int, width: int, seed: int) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@st.composite
def searches(draw: st.DrawFn) -> Search:
    count = draw(st.integers(1, 40))
    excluded = draw(st.sets(st.integers(0, count - 1)))
    return count, excluded, draw(st.integers(1, 50)), draw(st.integers(0, 99))


@everywhere
@given(search=searches())
def test_neighbours_are_those_of_a_brute_force_search(place: IndexPlace, search: Search) -> None:
    count, excluded, n, seed = search
    rows, queries = _unit_rows(count, 8, seed), _unit_rows(3, 8, seed + 100)
    found = Neighbors(rows, place).nearest(queries, n, excluded)
    for query, numbers in zip(queries, found, strict=True):
        near = rows.astype(np.float64) @ query.astype(np.float64)
        order = [int(number) for number in np.argsort(-near, kind="stable") if number not in excluded]
        assert len(numbers) == len(set(numbers.tolist())) == len(order[:n])
        # Which of two comes first that are as near but for rounding (8 products of at most 1), a processor decides.
        np.testing.assert_allclose(near[numbers], near[order[:n]], rtol=0, atol=8 * float(np.finfo(np.float32).eps))


@everywhere
@given(search=searches())
def test_excluded_rows_never_appear_and_no_place_is_left_empty(place: IndexPlace, search: Search) -> None:
    count, excluded, n, seed = search
    found = Neighbors(_unit_rows(count, 8, seed), place).nearest(_unit_rows(2, 8, seed + 1), n, excluded)
    assert found.shape == (2, min(n, count - len(excluded)))
    assert not set(found.ravel().tolist()) & excluded
    assert (found >= 0).all()


@everywhere
def test_the_neighbours_are_those_that_were_recorded(place: IndexPlace) -> None:
    rows, queries = _unit_rows(200, 16, 7), _unit_rows(3, 16, 8)
    index = Neighbors(rows, place)
    assert index.nearest(queries, 5).tolist() == RECORDED
    assert index.nearest(queries, 5, [row[0] for row in RECORDED]).tolist() == RECORDED_WITHOUT_THE_NEAREST


@everywhere
def test_an_excluded_row_may_be_named_twice(place: IndexPlace) -> None:
    rows = _unit_rows(4, 8, 0)
    assert set(Neighbors(rows, place).nearest(rows[:1], 9, [2, 2, 0]).ravel().tolist()) == {1, 3}


@everywhere
def test_fewer_rows_than_wanted_are_all_given(place: IndexPlace) -> None:
    rows = _unit_rows(3, 8, 0)
    assert sorted(Neighbors(rows, place).nearest(rows[:1], 100)[0].tolist()) == [0, 1, 2]


@everywhere
def test_an_empty_index_has_no_neighbours(place: IndexPlace) -> None:
    empty = Neighbors(np.zeros((0, 0), dtype=np.float32), place)
    assert empty.nearest(_unit_rows(2, 8, 0), 5).shape == (2, 0)


@everywhere
def test_nobody_is_left_when_every_row_is_excluded(place: IndexPlace) -> None:
    rows = _unit_rows(3, 8, 0)
    assert Neighbors(rows, place).nearest(rows, 5, range(3)).shape == (3, 0)


@everywhere
def test_a_row_is_its_own_nearest_neighbour(place: IndexPlace) -> None:
    rows = _unit_rows(20, 8, 1)
    assert Neighbors(rows, place).nearest(rows, 1).ravel().tolist() == list(range(20))


# Which way an index goes


@pytest.mark.parametrize(("kind", "selects"), [(LikeAGpu, False), (Deaf, False), (Selecting, True)])
def test_an_index_that_ignores_a_selector_is_one_that_has_none(kind: type[LikeAGpu], selects: bool) -> None:
    index = faiss.IndexFlatIP(8)
    rows = _unit_rows(5, 8, 0)
    index.add(rows)
    assert takes_selectors(kind(index), rows[:1]) is selects


def test_a_gpu_without_room_leaves_the_index_where_it_was_and_says_so() -> None:
    assert Neighbors(_unit_rows(3, 8, 0), PLACES["full"]).where == "cpu: the GPU has no room for the index"
    assert Neighbors(_unit_rows(3, 8, 0), PLACES["like a GPU"]).where == "gpu"


def test_a_place_that_finds_other_rows_is_not_taken() -> None:
    assert tried(PLACES["like a GPU"]) is PLACES["like a GPU"]
    refused = tried(IndexPlace("gpu", Wrong, MOST))
    assert refused.clone is None
    assert "other rows" in refused.where


def test_a_place_that_fails_is_not_taken() -> None:
    refused = tried(IndexPlace("gpu", Broken, MOST))
    assert refused.clone is None
    assert "failed its probe" in refused.where


def test_beside_a_model_on_the_processor_the_index_is_there_too() -> None:
    assert index_place("cpu") is ON_CPU


def test_without_a_gpu_for_faiss_the_processor_searches_and_says_why() -> None:
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        pytest.skip("faiss has a GPU here")
    place = index_place("cuda:0")
    assert place.clone is None
    assert place.where.startswith("cpu: ")
    assert "faiss" in place.where


@pytest.mark.gpu
def test_an_index_on_the_gpu_finds_what_the_processors_finds() -> None:
    place = index_place("cuda:0")
    assert place.clone is not None, place.where
    rows, queries = _unit_rows(20_000, 64, 1), _unit_rows(50, 64, 2)
    some: tuple[Sequence[int], ...] = ([], range(100), range(3_000))
    for hidden in some:
        near = Neighbors(rows, place).nearest(queries, 64, hidden)
        assert (near == Neighbors(rows).nearest(queries, 64, hidden)).mean() > 0.999  # but for ties
        assert not set(near.ravel().tolist()) & set(hidden)

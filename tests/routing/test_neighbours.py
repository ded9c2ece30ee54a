from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.routing.neighbors import Neighbors

Search = tuple[int, set[int], int, int]  # rows, the excluded among them, neighbors wanted, seed


def _unit_rows(count: int, width: int, seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@st.composite
def searches(draw: st.DrawFn) -> Search:
    count = draw(st.integers(1, 40))
    excluded = draw(st.sets(st.integers(0, count - 1)))
    return count, excluded, draw(st.integers(1, 50)), draw(st.integers(0, 99))


@given(searches())
def test_neighbours_are_those_of_a_brute_force_search(search: Search) -> None:
    count, excluded, n, seed = search
    rows, queries = _unit_rows(count, 8, seed), _unit_rows(3, 8, seed + 100)
    found = Neighbors(rows).nearest(queries, n, excluded)
    for query, numbers in zip(queries, found, strict=True):
        near = rows.astype(np.float64) @ query.astype(np.float64)
        order = [int(number) for number in np.argsort(-near, kind="stable") if number not in excluded]
        assert len(numbers) == len(set(numbers.tolist())) == len(order[:n])
        # Which of two comes first that are as near but for rounding (8 products of at most 1), a processor decides.
        np.testing.assert_allclose(near[numbers], near[order[:n]], rtol=0, atol=8 * float(np.finfo(np.float32).eps))


@given(searches())
def test_excluded_rows_never_appear_and_no_place_is_left_empty(search: Search) -> None:
    count, excluded, n, seed = search
    found = Neighbors(_unit_rows(count, 8, seed)).nearest(_unit_rows(2, 8, seed + 1), n, excluded)
    assert found.shape == (2, min(n, count - len(excluded)))
    assert not set(found.ravel().tolist()) & excluded
    assert (found >= 0).all()


def test_an_excluded_row_may_be_named_twice() -> None:
    rows = _unit_rows(4, 8, 0)
    assert set(Neighbors(rows).nearest(rows[:1], 9, [2, 2, 0]).ravel().tolist()) == {1, 3}


def test_fewer_rows_than_wanted_are_all_given() -> None:
    rows = _unit_rows(3, 8, 0)
    assert sorted(Neighbors(rows).nearest(rows[:1], 100)[0].tolist()) == [0, 1, 2]


def test_an_empty_index_has_no_neighbours() -> None:
    empty = Neighbors(np.zeros((0, 0), dtype=np.float32))
    assert empty.nearest(_unit_rows(2, 8, 0), 5).shape == (2, 0)


def test_nobody_is_left_when_every_row_is_excluded() -> None:
    rows = _unit_rows(3, 8, 0)
    assert Neighbors(rows).nearest(rows, 5, range(3)).shape == (3, 0)


def test_a_row_is_its_own_nearest_neighbour() -> None:
    rows = _unit_rows(20, 8, 1)
    assert Neighbors(rows).nearest(rows, 1).ravel().tolist() == list(range(20))

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.routing.weights import keep_largest, mean_errors, softmax_weights

Rows = tuple[NDArray[np.float64], NDArray[np.bool_]]  # errors (rows, K), and which of K may be used

taus = st.sampled_from([0.0, 0.5, 10.0, 100.0, 1000.0])


@st.composite
def rows_of_errors(draw: st.DrawFn) -> Rows:
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    unit = st.floats(0.0, 1.0)
    error_k = np.array(draw(st.lists(unit, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))).reshape(shape)
    allowed = np.array(draw(st.lists(st.booleans(), min_size=shape[1], max_size=shape[1])))
    return error_k, allowed


def _plain_softmax(errors: Sequence[float], tau: float, allowed: Sequence[bool]) -> list[float]:
    kept = [k for k, may in enumerate(allowed) if may]
    smallest = min((errors[k] for k in kept), default=0.0)
    powers = {k: math.exp(-tau * (errors[k] - smallest)) for k in kept}
    total = sum(powers.values())
    return [powers[k] / total if k in powers else 0.0 for k in range(len(errors))]


@given(rows_of_errors(), taus)
def test_weights_are_a_plain_softmax_over_the_allowed_adapters(rows: Rows, tau: float) -> None:
    error_k, allowed = rows
    weights = softmax_weights(error_k, tau, allowed)
    plain = [_plain_softmax(row, tau, allowed.tolist()) for row in error_k.tolist()]
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, plain, rtol=1e-5, atol=1e-7)


@given(rows_of_errors(), taus)
def test_rows_sum_to_one_unless_everything_is_masked(rows: Rows, tau: float) -> None:
    error_k, allowed = rows
    total = softmax_weights(error_k, tau, allowed).sum(axis=1)
    np.testing.assert_allclose(total, float(allowed.any()), rtol=1e-5)


@given(rows_of_errors(), taus)
def test_a_masked_adapter_has_weight_exactly_zero_and_the_others_are_renormalized(rows: Rows, tau: float) -> None:
    error_k, allowed = rows
    weights = softmax_weights(error_k, tau, allowed)
    assert (weights[:, ~allowed] == 0.0).all()
    without = softmax_weights(error_k[:, allowed], tau, np.ones(allowed.sum(), dtype=np.bool_))
    np.testing.assert_array_equal(weights[:, allowed], without)


def test_a_masked_adapter_does_not_count_however_small_its_error() -> None:
    weights = softmax_weights(np.array([[0.0, 0.5, 0.5]]), 1000.0, np.array([False, True, True]))
    assert weights.tolist() == [[0.0, 0.5, 0.5]]


def test_without_temperature_all_adapters_weigh_the_same() -> None:
    weights = softmax_weights(np.array([[0.1, 0.9, 0.4, 0.3]]), 0.0, np.ones(4, dtype=np.bool_))
    assert weights.tolist() == [[0.25] * 4]


def test_weights_are_zeros_when_everything_is_masked() -> None:
    assert softmax_weights(np.array([[0.1, 0.9]]), 100.0, np.zeros(2, dtype=np.bool_)).tolist() == [[0.0, 0.0]]


def test_a_generation_without_adapters_has_no_weights() -> None:
    assert softmax_weights(np.zeros((3, 0)), 100.0, np.ones(0, dtype=np.bool_)).shape == (3, 0)


def test_the_adapter_of_least_error_weighs_most() -> None:
    weights = softmax_weights(np.array([[0.3, 0.1, 0.2]]), 10.0, np.ones(3, dtype=np.bool_))
    assert np.argsort(-weights[0]).tolist() == [1, 2, 0]


def test_errors_are_averaged_over_each_requests_own_neighbours() -> None:
    errors = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]], dtype=np.float32)
    assert mean_errors(errors, np.array([[0, 1], [1, 2]])).tolist() == [[0.25, 0.75], [0.75, 0.25]]


@pytest.mark.parametrize("rows", [0, 3])
def test_without_neighbours_all_errors_are_equal(rows: int) -> None:
    assert mean_errors(np.ones((rows, 4), np.float32), np.empty((2, 0), np.int64)).tolist() == [[0.0] * 4] * 2


@given(rows_of_errors(), taus, st.integers(1, 7))
def test_only_the_largest_weights_are_kept_and_their_sum_stays(rows: Rows, tau: float, m: int) -> None:
    error_k, allowed = rows
    weights = softmax_weights(error_k, tau, allowed)
    kept = keep_largest(weights, m)
    assert kept.dtype == np.float32
    np.testing.assert_allclose(kept.sum(axis=1), weights.sum(axis=1), rtol=1e-5)
    for before, after in zip(weights.tolist(), kept.tolist(), strict=True):
        chosen = [k for k, weight in enumerate(after) if weight]
        assert len(chosen) <= m
        assert all(
            before[k] >= other for k in chosen for other in (before[n] for n in range(len(before)) if n not in chosen)
        )
        dropped = sum(before) - sum(before[k] for k in chosen)
        moved = sum(abs(one - other) for one, other in zip(before, after, strict=True))
        assert moved == pytest.approx(2 * dropped, abs=1e-5)  # the bound that the module states


def test_as_many_weights_as_there_are_stay_as_they_are() -> None:
    weights = np.array([[0.25, 0.5, 0.25]], dtype=np.float32)
    assert keep_largest(weights, 3) is weights
    np.testing.assert_allclose(keep_largest(weights, 2), [[1 / 3, 2 / 3, 0.0]], rtol=1e-6)

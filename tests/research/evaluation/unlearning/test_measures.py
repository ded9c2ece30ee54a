"""Distances between answers, pinned to plain formulas and to what must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from research.evaluation.unlearning.measures import (
    distributions,
    euclidean,
    half_symmetric,
    jensen_shannon,
    log_probabilities,
)


def plain_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def test_jensen_shannon_and_l2_are_those_of_the_plain_formulas() -> None:
    ours, theirs = [0.9, 0.2, 0.0], [0.6, 0.7, 0.5]
    expected = []
    for a, b in zip(ours, theirs, strict=True):
        p, q, m = [1 - a, a], [1 - b, b], [1 - (a + b) / 2, (a + b) / 2]
        expected.append((plain_kl(p, m) + plain_kl(q, m)) / 2)
    two = distributions(np.array(ours)), distributions(np.array(theirs))
    assert jensen_shannon(*two) == pytest.approx(sum(expected) / 3)
    assert euclidean(*two) == pytest.approx(
        sum(math.sqrt(2) * abs(a - b) for a, b in zip(ours, theirs, strict=True)) / 3
    )


def test_opposite_certainties_are_as_far_apart_as_can_be_and_equal_ones_not_at_all() -> None:
    certain = distributions(np.array([0.0, 1.0])), distributions(np.array([1.0, 0.0]))
    assert jensen_shannon(*certain) == pytest.approx(math.log(2))
    assert euclidean(*certain) == pytest.approx(math.sqrt(2))
    assert jensen_shannon(certain[0], certain[0]) == euclidean(certain[0], certain[0]) == 0.0


def test_the_released_measure_is_half_a_symmetric_divergence_and_about_four_times_the_true_one() -> None:
    one, other = (log_probabilities(torch.tensor([[0.0, x]])) for x in (0.3, 0.35))
    p, q = one.exp().tolist()[0], other.exp().tolist()[0]
    found = half_symmetric(one, other).item()
    assert found == pytest.approx((plain_kl(p, q) + plain_kl(q, p)) / 2)
    true = jensen_shannon(np.array([p]), np.array([q]))
    assert found / true == pytest.approx(4.0, rel=1e-3)

"""Metrics against their definitions, written out slowly."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.evaluation.metrics import (
    accuracy,
    auc,
    log_loss,
    uauc,
)

# Few distinct values, so that ties are common.
scored = st.lists(st.tuples(st.integers(0, 5).map(lambda n: n / 5), st.booleans()), min_size=1, max_size=30)


def slow_auc(scores: list[float], liked: list[bool]) -> float:
    """The share of pairs (liked, disliked) in which the liked one scores higher; a tie counts half."""
    ups = [score for score, yes in zip(scores, liked, strict=True) if yes]
    downs = [score for score, yes in zip(scores, liked, strict=True) if not yes]
    won = [(up > down) + 0.5 * (up == down) for up, down in product(ups, downs)]
    return sum(won) / len(won) if won else math.nan


@given(scored)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[float, bool]]) -> None:
    scores, liked = [score for score, _ in rows], [yes for _, yes in rows]
    assert auc(scores, liked) == pytest.approx(slow_auc(scores, liked), nan_ok=True)


@given(scored)
def test_auc_knows_only_the_order_of_scores(rows: list[tuple[float, bool]]) -> None:
    scores, liked = [score for score, _ in rows], [yes for _, yes in rows]
    bent = [math.exp(3 * score) - 7 for score in scores]
    assert auc(bent, liked) == pytest.approx(auc(scores, liked), nan_ok=True)


@given(scored)
def test_auc_of_reversed_scores_is_the_complement(rows: list[tuple[float, bool]]) -> None:
    scores, liked = [score for score, _ in rows], [yes for _, yes in rows]
    reversed_scores = [-score for score in scores]
    assert auc(reversed_scores, liked) == pytest.approx(1 - auc(scores, liked), nan_ok=True)


def test_auc_of_a_perfect_a_useless_and_a_perverse_ranking() -> None:
    assert auc([0.1, 0.2, 0.8, 0.9], [False, False, True, True]) == 1.0
    assert auc([0.5, 0.5, 0.5, 0.5], [False, True, False, True]) == 0.5
    assert auc([0.9, 0.8, 0.2, 0.1], [False, False, True, True]) == 0.0


@pytest.mark.parametrize("liked", [[True, True], [False, False]])
def test_auc_of_one_class_is_not_a_number(liked: list[bool]) -> None:
    assert math.isnan(auc([0.1, 0.9], liked))


@given(scored, st.lists(st.sampled_from(["ann", "bob", "cy"]), min_size=30, max_size=30))
def test_uauc_is_the_mean_auc_of_the_users_who_have_both_classes(
    rows: list[tuple[float, bool]], names: list[str]
) -> None:
    users = names[: len(rows)]
    own = {user: [row for row, name in zip(rows, users, strict=True) if name == user] for user in users}
    areas = [slow_auc([score for score, _ in of], [yes for _, yes in of]) for of in own.values()]
    defined = [area for area in areas if not math.isnan(area)]
    expected = sum(defined) / len(defined) if defined else math.nan
    found = uauc([score for score, _ in rows], [yes for _, yes in rows], users)
    assert found == pytest.approx(expected, nan_ok=True)


def test_uauc_does_not_compare_people_with_each_other() -> None:
    scores, liked = [0.1, 0.2, 0.8, 0.9, 0.5], [False, True, False, True, True]
    assert uauc(scores, liked, ["low", "low", "high", "high", "one class"]) == 1.0
    assert auc(scores, liked) < 1.0


def test_accuracy_counts_the_right_side_of_one_half() -> None:
    assert accuracy([0.9, 0.4, 0.6, 0.1], [True, True, False, False]) == 0.5
    assert accuracy([0.9, 0.1], [True, False]) == 1.0


@given(scored)
def test_log_loss_is_the_mean_surprise_and_never_infinite(rows: list[tuple[float, bool]]) -> None:
    scores, liked = [score for score, _ in rows], [yes for _, yes in rows]
    assert 0 <= log_loss(scores, liked) < 28
    if all(0 < score < 1 for score in scores):
        slow = [-math.log(score) if yes else -math.log(1 - score) for score, yes in rows]
        assert log_loss(scores, liked) == pytest.approx(sum(slow) / len(slow))

"""The ideal observer against the slow, obvious one: draw many people, keep those who gave the same answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from research.pretraining.observer import expected_likes, with_unknown
from research.pretraining.simulated import ItemFeatures, PublicFacts, Tastes

ITEMS = ItemFeatures.of(
    [
        PublicFacts("a", 1990, ("drama",), 8.0, 900.0, "x"),
        PublicFacts("b", 1995, ("comedy",), 6.0, 100.0, "y"),
        PublicFacts("c", 1985, ("drama", "comedy"), 5.0, 400.0, "x"),
        PublicFacts("d", 2000, ("crime",), 7.0, 700.0, None),
    ]
)
HISTORY, TARGETS = np.array([0, 1]), np.array([2, 3])


def of_people_who_agree(tastes: Tastes, liked: np.ndarray, drawn: int = 400_000) -> np.ndarray:
    """P(like) of the targets, weighted by how likely each drawn person was to answer `liked`."""
    rng = np.random.default_rng(0)
    genres = ITEMS.genres
    taste = tastes.mean(genres) + tastes.spread(genres) * rng.standard_normal((drawn, 4 + genres))
    appeal = taste @ ITEMS.values.T
    for author in (0, 1):
        appeal[:, ITEMS.authors == author] += tastes.author_spread * rng.standard_normal((drawn, 1))
    p = 1.0 / (1.0 + np.exp(-appeal))
    agreement = np.prod(np.where(liked, p[:, HISTORY], 1.0 - p[:, HISTORY]), axis=1)
    return np.average(p[:, TARGETS], axis=0, weights=agreement)


@pytest.mark.parametrize("tastes", [Tastes(), Tastes(author_spread=1.0, genre_spread=0.3)])
@pytest.mark.parametrize("liked", [(True, True), (True, False), (False, False)])
def test_expects_what_people_who_agree_would_answer(tastes: Tastes, liked: tuple[bool, bool]) -> None:
    expected = expected_likes(ITEMS, tastes, HISTORY, np.array(liked), TARGETS)

    assert expected == pytest.approx(
        of_people_who_agree(tastes, np.array(liked)), abs=0.03
    )  # Laplace is an approximation


def test_knows_nothing_without_a_history_but_the_mean() -> None:
    nobody = np.array([], dtype=np.int64)
    still = Tastes(generosity=(0.4, 1e-6), quality=(0.0, 1e-6), fame=(0.0, 1e-6), decade=(0.0, 1e-6), genre_spread=1e-6)

    expected = expected_likes(ITEMS, still, nobody, np.array([], dtype=bool), TARGETS)

    assert expected == pytest.approx(1.0 / (1.0 + np.exp(-0.4)))


def test_expects_of_an_unknown_item_about_what_it_expects_of_all_that_people_meet() -> None:
    tastes, liked = Tastes(), np.array([True, False])
    every, unknown = np.arange(4), np.array([4])
    items = with_unknown(ITEMS, tastes)

    usual = np.average(expected_likes(ITEMS, tastes, HISTORY, liked, every), weights=ITEMS.popularity)
    assert expected_likes(items, tastes, HISTORY, liked, unknown) == pytest.approx(usual, abs=0.03)


def test_an_opinion_of_an_unknown_item_tells_of_generosity_but_less_than_one_of_a_known() -> None:
    tastes, said = Tastes(), np.array([True])
    items = with_unknown(ITEMS, tastes)
    nothing = expected_likes(items, tastes, np.array([], dtype=np.int64), np.array([], dtype=bool), np.array([1]))
    after_unknown = expected_likes(items, tastes, np.array([4]), said, np.array([1]))

    assert nothing < after_unknown
    known = dataclasses.replace(items, unexplained=np.zeros(5))  # as if the usual item were all that there is to it
    assert after_unknown < expected_likes(known, tastes, np.array([4]), said, np.array([1]))

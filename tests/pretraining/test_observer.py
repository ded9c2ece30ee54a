"""The ideal observer against the slow, obvious one: draw many people, keep those who gave the same answers."""

from __future__ import annotations

import numpy as np
import pytest

from service.data.simulated import ItemFeatures, PublicFacts, Tastes
from service.pretraining.observer import expected_likes

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

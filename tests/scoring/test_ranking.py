"""How the parts of an order are weighed."""

from __future__ import annotations

import numpy as np
import pytest

from service.scoring.ranking import Reasons, bounded, values

NOTHING = np.zeros(4)
LOGITS = np.array([-1.0, 1.0])


def known(likes: int) -> Reasons:
    """Of four items of which nothing is known but how many liked each."""
    return Reasons(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, np.full(4, 1 / (1 + likes)))


@pytest.mark.parametrize(("likes", "share"), [(0, 1.0), (1, 1 / 4), (3, 1 / 16), (99, 1e-4)])
def test_the_language_models_say_fades_with_the_square_of_what_is_known(likes: int, share: float) -> None:
    np.testing.assert_allclose(values(known(likes), [0, 1], LOGITS), 0.1 * share * LOGITS)


def test_a_title_that_no_catalog_knows_is_ordered_by_the_language_model_alone() -> None:
    np.testing.assert_allclose(values(known(99), [None, None], LOGITS), 0.1 * LOGITS)


# Titles outside the catalog


@pytest.mark.parametrize("score", [-5.0, 0.1, 0.5, 2.0, 1e9])
def test_a_title_outside_the_catalog_stands_behind_the_better_half_of_the_catalogs(score: float) -> None:
    value = np.array([*np.linspace(0, 1, 98), score])
    found = bounded(value, [False] * 98 + [True])
    assert list(np.argsort(-found, kind="stable")).index(98) >= 50 - 1 + (score >= value[48])
    np.testing.assert_array_equal(found[:98], value[:98])


def test_titles_outside_the_catalog_keep_their_order_among_themselves() -> None:
    value = np.array([0.9, 5.0, 0.5, 7.0, 0.4, 0.45, 6.0])
    found = bounded(value, [False, True, False, True, False, True, True])
    assert list(np.argsort(-found)) == [0, 2, 3, 6, 1, 5, 4]


def test_where_no_candidate_is_in_the_catalog_the_order_is_the_scores() -> None:
    value = np.array([0.9, 5.0])
    np.testing.assert_array_equal(bounded(value, [True, True]), value)

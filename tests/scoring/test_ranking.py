"""How the parts of an order are weighed."""

from __future__ import annotations

import numpy as np
import pytest

from service.memory.content import Content, facts_of
from service.memory.counting import count_people
from service.memory.live import LiveCounts
from service.memory.retrieval import Taste
from service.memory.table import CountTable
from service.records import Item
from service.scoring.ranking import Reasons, bounded, reasons, values

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


# What likes have in common

FILMS = [Item(str(n), f"Film {n}", 1990, (kind,)) for n, kind in enumerate(["Western", "Western", "Musical"] * 2)]
CONTENT = Content(facts_of(FILMS), np.zeros((6, 0), np.float32))
NO_COUNTS = LiveCounts(CountTable.of([count_people([])], {film.item_id: n for n, film in enumerate(FILMS)}), [], (), 1)


def said_by_content(*liked: bool) -> np.ndarray:
    """Of a history of the first films."""
    return reasons(NO_COUNTS, Taste(tuple(range(len(liked))), liked), None, CONTENT).content


def test_what_several_likes_have_in_common_speaks_for_others_that_have_it_too() -> None:
    np.testing.assert_allclose(said_by_content(True, True), [1 / 4, 1 / 4, 0, 1 / 4, 1 / 4, 0], rtol=1e-6)


@pytest.mark.parametrize("liked", [(), (True,), (True, False), (False, False)])
def test_of_a_single_like_nobody_knows_what_was_liked(liked: tuple[bool, ...]) -> None:
    assert not said_by_content(*liked).any()


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

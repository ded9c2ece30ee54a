"""What counts say of known items reaches those that hardly anybody has rated by their public facts, and nobody else's."""

from __future__ import annotations

import numpy as np
import pytest

from service.memory.content import THIN_LIKES, Content, facts_of
from service.records import Item

RANDOM = np.random.default_rng(3)
KINDS = ("Western", "Musical")


def film(number: int, kind: str, year: int | None = 1990, *, created: bool = False) -> Item:
    return Item(str(number), f"Film {number}", year, (kind,), created=created)


FILMS = [film(number, KINDS[number % 2], 1930 + 3 * number) for number in range(20)]
EMBEDDINGS = RANDOM.normal(size=(20, 8)).astype(np.float32)
LIKES = np.array([0, 0, 3, 4, *[50] * 16])


@pytest.fixture
def content() -> Content:
    return Content(facts_of(FILMS), EMBEDDINGS)


def slowly(scores: np.ndarray, likes: np.ndarray) -> np.ndarray:
    """The normal equations, over everything that is read of an item, with a constant."""
    centered = EMBEDDINGS - EMBEDDINGS.mean(axis=0)
    scaled = (
        centered * 3.0 / np.sqrt((centered**2).sum(axis=1).mean())
    )  # a turn of the axes changes no ridge regression
    read = np.concatenate([facts_of(FILMS), scaled, np.ones((20, 1))], axis=1).astype(np.float64)
    known, thin = likes > 0, likes < THIN_LIKES
    slopes = np.linalg.solve(read[known].T @ read[known] + 10 * np.eye(read.shape[1]), read[known].T @ scores[known])
    return np.where(thin, read @ slopes, 0.0)


def test_what_is_carried_over_is_a_ridge_regression_on_the_liked_items(content: Content) -> None:
    for likes in (LIKES, np.roll(LIKES, 5), LIKES):
        scores = RANDOM.normal(size=20) * (likes > 0)
        np.testing.assert_allclose(content.carried(scores, likes), slowly(scores, likes), rtol=1e-4, atol=1e-6)


def test_a_new_western_is_for_whom_westerns_are() -> None:
    plain = Content(facts_of(FILMS), EMBEDDINGS[:, :0])
    likes = np.where(np.arange(20) < 12, 50, 0)
    westerns = np.array([float("Western" in each.genres) for each in FILMS]) * (likes > 0)
    carried = plain.carried(westerns, likes)
    assert carried[12::2].min() > carried[13::2].max()


def test_items_that_many_have_liked_speak_for_themselves(content: Content) -> None:
    assert not content.carried(RANDOM.normal(size=20), LIKES)[LIKES >= THIN_LIKES].any()


def test_what_a_score_says_of_an_item_that_nobody_has_liked_counts_for_nothing(content: Content) -> None:
    scores = RANDOM.normal(size=20)
    np.testing.assert_array_equal(
        content.carried(scores, LIKES), content.carried(np.where(LIKES > 0, scores, 7.0), LIKES)
    )


@pytest.mark.parametrize("count", [0, 1, 5])
def test_where_nobody_has_liked_anything_nothing_is_carried(count: int) -> None:
    small = Content(facts_of(FILMS[:count]), EMBEDDINGS[:count])
    assert not small.carried(np.zeros(count), np.zeros(count, np.int64)).any()
    assert len(small.carried(np.ones(count), np.zeros(count, np.int64))) == count


def test_a_catalog_without_facts_or_without_embeddings_is_read_by_the_other(content: Content) -> None:
    scores = np.where(LIKES > 0, 1.0, 0.0)
    for part in (Content(facts_of(FILMS), EMBEDDINGS[:, :0]), Content(np.zeros((20, 0), np.float32), EMBEDDINGS)):
        assert part.carried(scores, LIKES)[0] > 0


# What items have in common


def test_alike_is_the_mean_cosine_of_categories_the_rarer_the_heavier() -> None:
    kinds = [("Drama", "War"), ("Drama",), ("Drama", "Western"), ("War",), (), ("Drama", "War")]
    items = [Item(str(number), f"Film {number}", 1990, genres) for number, genres in enumerate(kinds)]
    found = Content(facts_of(items), np.zeros((6, 0), np.float32)).alike([0, 3])
    weight = {"Drama": np.log(6 / 4), "War": np.log(6 / 3), "Western": np.log(6)}

    def cosine(one: tuple[str, ...], other: tuple[str, ...]) -> float:
        lengths = [np.sqrt(sum(weight[name] ** 2 for name in own)) for own in (one, other)]
        return float(sum(weight[name] ** 2 for name in {*one} & {*other}) / (lengths[0] * lengths[1]))

    expected = [(cosine(own, kinds[0]) + cosine(own, kinds[3])) / 2 if own else 0.0 for own in kinds]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_category_that_all_have_tells_nothing() -> None:
    items = [Item(str(number), f"Film {number}", 1990, ("Film",)) for number in range(3)]
    assert not Content(facts_of(items), np.zeros((3, 0), np.float32)).alike([0, 1]).any()


def test_without_facts_nothing_is_alike() -> None:
    assert not Content(np.zeros((20, 0), np.float32), EMBEDDINGS).alike([0, 1]).any()


# Facts


def test_facts_are_categories_and_ages() -> None:
    found = facts_of(
        [film(1, "Western", 2000), film(2, "Musical", 1999), film(3, "Western", 1990), film(4, "Western", None)]
    )
    np.testing.assert_array_equal(found[:, 0], [1, 0, 1, 1])  # the most frequent category first
    np.testing.assert_array_equal(found[:, 1], [0, 1, 0, 0])
    np.testing.assert_array_equal(found[:, 2:].sum(axis=1), [1, 1, 1, 0])
    assert found[0, 2] == found[1, 3] == 1  # this year's, last year's
    np.testing.assert_allclose(
        found[2, 2 + 5 : 2 + 7], [0.6, 0.4], rtol=1e-6
    )  # ten years lie between eight and thirteen


def test_a_created_item_changes_no_other_items_facts() -> None:
    known = [film(1, "Western", 2000), film(2, "Western", 1990)]
    somebodys = Item("x", "Future (2090)", 2090, created=True)
    np.testing.assert_array_equal(facts_of([*known, somebodys])[:2], facts_of(known))


def test_a_category_that_an_item_states_twice_counts_once() -> None:
    twice = Item("1", "Film", 1990, ("Western", "Western"))
    np.testing.assert_array_equal(facts_of([twice, film(2, "Musical")])[0, :2].sum(), 1)


def test_no_item_has_no_facts() -> None:
    assert len(facts_of([])) == 0

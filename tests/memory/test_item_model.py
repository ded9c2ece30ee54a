"""The item model is EASE^R of the live counts, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from adapters_store import Store, digest_of
from service.building.item_model import ItemModelTask, solve_item_model
from service.memory.artifact import memory_files
from service.memory.counting import count_people
from service.memory.item_model import LEAST_LIKES, REGULARIZATION, ItemModel, gram, modeled_items, regularization, solve
from service.memory.live import LiveCounts
from service.memory.retrieval import Taste, added
from service.records import Interaction

from .conftest import ITEMS, memory_of

People = Mapping[str, tuple[Interaction, ...]]


@pytest.fixture(scope="module")
def live(people: People) -> LiveCounts:
    return memory_of({"all": count_people(people.values())}).without()


def liked_matrix(people: People) -> np.ndarray:
    liked = [{row.item_id for row in rows if row.liked} for rows in people.values()]
    return np.array([[item in own for item in ITEMS] for own in liked], float)


def test_the_gram_matrix_counts_people_and_leaves_out_rare_pairs(people: People, live: LiveCounts) -> None:
    items = modeled_items(live)
    matrix = liked_matrix(people)[:, items]
    assert (matrix.sum(axis=0) >= LEAST_LIKES).all()
    expected = matrix.T @ matrix
    rare = (expected < 3) & ~np.eye(len(items), dtype=bool)
    assert rare.any()
    np.testing.assert_array_equal(
        gram(memory_of({"all": count_people(people.values())}, 3).without(), items), np.where(rare, 0.0, expected)
    )


def test_the_solution_is_the_least_squares_one_with_an_empty_diagonal(people: People, live: LiveCounts) -> None:
    """Column by column: ridge regression of an item on all others (Steck 2019, eq. 1)."""
    items = modeled_items(live)
    matrix = liked_matrix(people)[:, items]
    counts = matrix.T @ matrix
    weights = solve(counts)
    for column in range(len(items)):
        others = [row for row in range(len(items)) if row != column]
        x = matrix[:, others]
        ridge = np.linalg.solve(x.T @ x + regularization(counts) * np.eye(len(others)), x.T @ matrix[:, column])
        np.testing.assert_allclose(weights[others, column], ridge, rtol=1e-4, atol=1e-9)
        assert weights[column, column] == 0


def crowd(least_people: int) -> np.ndarray:
    """Counts of 40 items and 200 people of different appetite, without the pairs of too few people."""
    random = np.random.default_rng(0)
    liked = (random.random((200, 40)) < random.beta(0.5, 2.0, (200, 1))).astype(float)
    counts = liked.T @ liked
    return np.where((counts >= least_people) | np.eye(40, dtype=bool), counts, 0.0)


@pytest.mark.parametrize(("times", "expected"), [(1, None), (100, REGULARIZATION)])
def test_regularization_is_what_it_is_or_a_share_of_what_people_have_in_common(
    times: int, expected: float | None
) -> None:
    counts = crowd(1) * times
    assert regularization(counts) == pytest.approx(expected or 0.4 * counts.sum() / len(counts))


@pytest.mark.parametrize("times", [1, 30, 100, 1000])
def test_however_many_pairs_are_left_out_the_least_eigenvalue_is_half_the_regularization(times: int) -> None:
    counts = crowd(20) * times
    least = np.linalg.eigvalsh(counts).min()
    assert least < 0
    found, wanted = regularization(counts), min(REGULARIZATION, 0.4 * counts.sum() / len(counts))
    assert least + found / 2 > 0
    assert found == pytest.approx(wanted) or least + found / 4 <= 0
    assert np.abs(solve(counts)).max() < 1.0


def test_items_without_any_pair_are_solved_to_nothing() -> None:
    assert not solve(np.diag([3.0, 4.0, 5.0])).any()


def test_newer_likes_say_more_and_dislikes_nothing(live: LiveCounts) -> None:
    items = modeled_items(live)
    model = ItemModel(items, solve(gram(live, items)))
    old, new, disliked = (int(items[place]) for place in (0, 3, 5))
    taste = Taste((old, disliked, new), (True, False, True))
    expected = np.zeros(len(ITEMS))
    expected[items] = model.weights[3] + 0.97 * model.weights[0].astype(float)
    np.testing.assert_allclose(added(model.evidence(taste), len(ITEMS)), expected, rtol=1e-6)


def test_nobody_makes_an_empty_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    live = memory_of({}).without()
    assert solve(gram(live, modeled_items(live))).shape == (0, 0)


def test_a_task_solves_what_its_memories_say(people: People, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    for name, rows in people.items():
        store.memories.add(digest_of(name), memory_files(count_people([rows])))
    stored = tuple(store.memories.stated(digest, store.memories.sums(digest)) for digest in store.memories.digests())
    steps: list[int] = []
    files = solve_item_model(ItemModelTask(stored, tuple(ITEMS), 2), steps.append)
    again = solve_item_model(ItemModelTask(stored[::-1], tuple(ITEMS), 2), steps.append)
    assert files == again
    assert steps == [1, 1]
    common = memory_of({"all": count_people(people.values())}, 2).without()
    assert files["item_model.npy"].endswith(solve(gram(common, modeled_items(common))).tobytes())


def test_a_model_of_a_part_of_the_catalog_says_so_much_less(live: LiveCounts) -> None:
    items = modeled_items(live)
    whole = ItemModel(items, solve(gram(live, items)))
    half = ItemModel(items[::2], whole.weights[::2, ::2])
    assert whole.share(live) == 1.0
    assert half.share(live) == len(items[::2]) / len(items)
    assert ItemModel(items[:0], whole.weights[:0, :0]).share(live) == 0.0

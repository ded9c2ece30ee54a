"""What the live counts say of every item is the formula, summed in a plain loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from service.errors import Damaged
from service.memory.artifact import COUNTS, load_memory, memory_files
from service.memory.artifact import ITEMS as ITEMS_FILE
from service.memory.counting import count_people
from service.memory.live import LiveCounts, Memory
from service.memory.retrieval import READ, Taste, added, liked_next, liked_together
from service.records import Interaction

from .conftest import ITEMS, memory_of, source_of
from .test_counting import assert_same, followed_by_loops, together_by_loops

People = Mapping[str, tuple[Interaction, ...]]
LEAST = 2
TASTE = Taste((3, 14, 7, 20, 1), (True, False, True, True, False))


@pytest.fixture(scope="module")
def live(people: People) -> LiveCounts:
    return memory_of({name: count_people([rows]) for name, rows in people.items()}, LEAST).without({"person-5"})


@pytest.fixture(scope="module")
def left(people: People) -> list[tuple[Interaction, ...]]:
    return [rows for name, rows in people.items() if name != "person-5"]


def opinions(people: list[tuple[Interaction, ...]], *, liked: bool | None = None) -> np.ndarray:
    rows = [row for own in people for row in own if liked is None or row.liked == liked]
    return np.array([sum(row.item_id == item for row in rows) for item in ITEMS])


def trusted(weight: float, people: int) -> float:
    return weight * people / (people + 8 / len(TASTE.items))


def test_what_was_liked_together_is_summed_over_the_likes_of_the_history(
    live: LiveCounts, left: list[tuple[Interaction, ...]]
) -> None:
    pairs, likes = together_by_loops(left), opinions(left, liked=True)
    expected = np.zeros(len(ITEMS))
    for age, source in enumerate([20, 7, 3]):
        for item in range(len(ITEMS)):
            names = sorted((ITEMS[source], ITEMS[item]))
            people, weight = pairs.get((names[0], names[1]), (0, 0))
            if people >= LEAST:
                expected[item] += (
                    0.8**age * trusted(weight, people) * ((likes[source] + 5) * (likes[item] + 5)) ** -0.65
                )
    np.testing.assert_allclose(added(liked_together(live, TASTE), len(ITEMS)), expected, rtol=1e-9)
    assert expected.any()


def test_what_came_next_is_summed_over_the_whole_history(live: LiveCounts, left: list[tuple[Interaction, ...]]) -> None:
    pairs, likes, met = followed_by_loops(left), opinions(left, liked=True), opinions(left)
    expected = np.zeros(len(ITEMS))
    for age, source in enumerate([1, 20, 7, 14, 3]):
        for item in range(len(ITEMS)):
            people, weight = pairs.get((ITEMS[source], ITEMS[item]), (0, 0))
            if people >= LEAST:
                expected[item] += 0.8**age * trusted(weight, people) * ((met[source] + 5) * (likes[item] + 5)) ** -0.65
    np.testing.assert_allclose(added(liked_next(live, TASTE), len(ITEMS)), expected, rtol=1e-9)
    assert expected.any()


def test_without_an_order_every_like_says_as_much_and_nothing_comes_next(live: LiveCounts) -> None:
    forth = Taste((3, 7, 20), (True, True, True), ordered=False)
    back = Taste((20, 7, 3), (True, True, True), ordered=False)
    one, other = (added(liked_together(live, taste), len(ITEMS)) for taste in (forth, back))
    np.testing.assert_allclose(one, other, rtol=1e-9)
    assert list(liked_next(live, forth)) == []


def test_without_an_order_clear_evidence_outweighs_much_that_is_faint(
    live: LiveCounts, left: list[tuple[Interaction, ...]]
) -> None:
    pairs, likes = together_by_loops(left), opinions(left, liked=True)
    expected = np.zeros(len(ITEMS))
    for source in (20, 7, 3):
        for item in range(len(ITEMS)):
            names = sorted((ITEMS[source], ITEMS[item]))
            people, weight = pairs.get((names[0], names[1]), (0, 0))
            if people >= LEAST:
                discount = ((likes[source] + 1) * (likes[item] + 1)) ** -0.65
                expected[item] += (trusted(weight, people) * discount) ** 1.5
    unordered = replace(TASTE, ordered=False)
    np.testing.assert_allclose(added(liked_together(live, unordered), len(ITEMS)), expected, rtol=1e-9)
    assert expected.any()


def test_without_an_order_all_of_a_history_speaks(live: LiveCounts) -> None:
    long = Taste(tuple(range(len(ITEMS))) * 9, (True,) * len(ITEMS) * 9, ordered=False)
    assert len(list(liked_together(live, long))) == len(ITEMS) * 9


def test_work_does_not_grow_beyond_the_newest_items(live: LiveCounts) -> None:
    long = Taste(tuple(range(len(ITEMS))) * 9, (True,) * len(ITEMS) * 9)
    assert len(list(liked_together(live, long))) == len(list(liked_next(live, long))) == READ


@pytest.mark.parametrize("least", [2, 3, 5])
def test_what_fewer_people_have_in_common_says_nothing(people: People, least: int) -> None:
    """A stranger who names one rare item must not get the list of its only other reader."""
    secret = [Interaction("only", ITEMS[0], True, 1), Interaction("only", "rare-1", True, 2)]
    secret.append(Interaction("only", "rare-2", True, 3))
    items = [*ITEMS, "rare-1", "rare-2"]
    shards = {"a": count_people(people.values()), "b": count_people([secret])}
    planted = Memory.of(source_of(shards, least), items).without()
    asked = [Taste((n,), (True,)) for n in (25, 26)] + [Taste((25, 26), (True, True)), Taste((0, 25), (True, True))]
    for taste in asked:
        for find in (liked_together, liked_next):
            found = added(find(planted, taste), len(items))
            assert not found[[25, 26]].any()
            assert taste.items[0] == 0 or not found.any()
    everything = Memory.of(source_of(shards, 1), items).without()
    assert added(liked_together(everything, asked[0]), len(items))[26] > 0


def test_a_pair_that_a_mask_makes_rare_says_nothing() -> None:
    both = [[Interaction(user, item, True, n) for n, item in enumerate(ITEMS[:2])] for user in ("ann", "bob")]
    memory = memory_of({"a": count_people(both[:1]), "b": count_people(both[1:])}, 2)
    assert len(memory.without().together(0).items) == 1
    assert len(memory.without({"b"}).together(0).items) == 0


def test_counts_survive_their_files(people: People) -> None:
    counts = count_people(people.values())
    read = load_memory(memory_files(counts))
    assert_same(memory_of({"": read}).without(), memory_of({"": counts}).without())
    assert memory_files(read) == memory_files(counts)


@pytest.mark.parametrize("name", [COUNTS, ITEMS_FILE])
def test_files_that_hold_no_counts_are_told(name: str, people: People) -> None:
    with pytest.raises(Damaged, match="build again"):
        load_memory(memory_files(count_people(people.values())) | {name: b"nothing"})

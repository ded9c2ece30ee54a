"""A sum that follows the generations is the sum that a clean build adds up."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from service.errors import Damaged
from service.memory.counting import ShardCounts, count_people
from service.memory.live import LiveCounts, Memory, Source
from service.memory.table import CountTable
from service.records import Interaction

from .conftest import ITEMS, drawn, memory_of, source_of
from .test_counting import assert_same

LEAST = 2
PEOPLE = {f"person-{n:03}": drawn(f"person-{n:03}", 12 if n else 3, 5) for n in range(48)}
Shards = dict[str, ShardCounts]


def shards_of(people: Mapping[str, tuple[Interaction, ...]]) -> Shards:
    """Six shards, each named by who is in it."""
    own: dict[int, list[str]] = {}
    for number, name in enumerate(PEOPLE):
        if name in people:
            own.setdefault(number % 6, []).append(name)
    return {" ".join(names): count_people([people[name] for name in names]) for names in own.values()}


def test_rare_pairs_that_were_left_out_come_back_by_no_deletion() -> None:
    chance = random.Random(4)
    left = dict(PEOPLE)
    memory = memory_of(shards_of(left), LEAST)
    for user in chance.sample(sorted(PEOPLE), 30):
        del left[user]
        now = shards_of(left)
        memory = memory.renewed(source_of(now, LEAST), ITEMS)
        assert_same(memory.without(), memory_of(now, LEAST).without())
        masked = set(chance.sample(sorted(now), min(2, len(now))))
        clean = {name: counts for name, counts in now.items() if name not in masked}
        assert_same(memory.without(masked), memory_of(clean, LEAST).without())


class Counting:
    """Shards, and how often one was loaded."""

    def __init__(self, shards: Shards) -> None:
        self._shards, self.loaded = shards, 0

    def source(self, least: int = LEAST) -> Source:
        return Source(tuple(self._shards), self._load, least)

    def _load(self, name: str) -> ShardCounts:
        self.loaded += 1
        return self._shards[name]


def test_after_a_deletion_only_what_changed_is_loaded() -> None:
    before = shards_of(PEOPLE)
    memory = memory_of(before, LEAST)
    memory.without({next(iter(before))})  # the mask, before there is a new generation
    after = Counting(shards_of({name: rows for name, rows in PEOPLE.items() if name != "person-000"}))
    memory.renewed(after.source(), ITEMS)
    assert after.loaded == 1


def test_whoever_comes_can_make_a_rare_pair_a_common_one() -> None:
    without = {name: rows for name, rows in PEOPLE.items() if name != "person-001"}
    rare = [Interaction("person-001", item, True, n) for n, item in enumerate(ITEMS)]
    with_them = {**without, "person-001": tuple(rare)}
    memory = memory_of(shards_of(without), LEAST).renewed(source_of(shards_of(with_them), LEAST), ITEMS)
    assert_same(memory.without(), memory_of(shards_of(with_them), LEAST).without())


@pytest.mark.parametrize("least", [1, 3])
def test_other_items_and_another_threshold_are_added_up_anew(least: int) -> None:
    shards = shards_of(PEOPLE)
    memory = memory_of(shards, LEAST).renewed(source_of(shards, least), ITEMS)
    assert_same(memory.without(), memory_of(shards, least).without())
    more = [*ITEMS, "item-99"]
    assert len(memory.renewed(source_of(shards, least), more).without().likes) == len(more)


class Erasable:
    """Shards that are there until they are erased."""

    def __init__(self, shards: Shards) -> None:
        self.source, self.erased = Source(tuple(shards), self._load, LEAST), False
        self._shards = shards

    def _load(self, name: str) -> ShardCounts:
        if self.erased:
            raise Damaged("it is gone; build again")
        return self._shards[name]


def test_what_was_erased_before_it_could_be_subtracted_is_added_up_anew() -> None:
    before = Erasable(shards_of(PEOPLE))
    memory = Memory.of(before.source, ITEMS)
    before.erased = True
    with pytest.raises(Damaged):
        memory.without(before.source.digests[:1])
    after = shards_of({name: rows for name, rows in PEOPLE.items() if name != "person-000"})
    assert_same(memory.renewed(source_of(after, LEAST), ITEMS).without(), memory_of(after, LEAST).without())


@pytest.mark.parametrize("at_once", [1, 40, 1_000])
def test_a_sum_in_pieces_is_the_sum_at_once(at_once: int) -> None:
    number = {item: n for n, item in enumerate(ITEMS)}
    shards = list(shards_of(PEOPLE).values())
    whole, pieces = CountTable.of(shards, number, LEAST), CountTable.of(shards, number, LEAST, at_once)
    assert_same(LiveCounts(pieces, (), (), LEAST), LiveCounts(whole, (), (), LEAST))


def test_a_catalog_may_be_in_any_order() -> None:
    backwards = Memory.of(source_of(shards_of(PEOPLE), LEAST), ITEMS[::-1]).without()
    forwards = memory_of(shards_of(PEOPLE), LEAST).without()
    for item in range(len(ITEMS)):
        row, mirrored = forwards.followed(item), backwards.followed(len(ITEMS) - 1 - item)
        assert (len(ITEMS) - 1 - mirrored.items[::-1]).tolist() == row.items.tolist()
        assert mirrored.weights[::-1].tolist() == row.weights.tolist()

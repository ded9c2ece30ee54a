"""What a caller may choose among and how: exclusions, filters, hidden items, pages, diversity."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.records import ById, CatalogEntry, Item
from service.scoring.diversity import diversified
from service.scoring.filters import AUTHOR, CATEGORY, YEAR, Condition, attribute_field, tagged
from service.scoring.recommender import Recommender
from service.scoring.requests import Query, RankBy
from service.scoring.shelf import Shelf, Shelves
from tests.scoring.conftest import FakeCatalog
from tests.scoring.test_recommender import FakeQueue

ASKED = Query(user_id="someone", opinions=(), candidates=None, top_k=5)
NOW = 1_000.0


def condition(field: str, **wanted: Any) -> Condition:
    sets: dict[str, Any] = {
        name: frozenset(map(tagged, wanted.pop(name))) for name in ("any_of", "all_of", "none_of") if name in wanted
    }
    return Condition(field, **sets, **wanted)


class Shop:
    """The ledger's side of a shelf, and a clock."""

    def __init__(self, items: tuple[Item, ...]) -> None:
        self.entries = {item.item_id: CatalogEntry(item) for item in items}
        self.revision, self.readings, self.now = 0, 0, NOW

    def change(self, item_id: str, **changed: Any) -> None:
        self.entries[item_id] = replace(self.entries[item_id], **changed)
        self.revision += 1

    def availability_revision(self) -> int:
        return self.revision

    def catalog_entries(self) -> tuple[int, tuple[CatalogEntry, ...]]:
        self.readings += 1
        return self.revision, tuple(self.entries.values())


class Counter:
    """A recommender over a shop."""

    def __init__(self, world: Any) -> None:
        world.publish()
        self.shop = Shop(world.items)
        catalog, queue = FakeCatalog(world), FakeQueue(lambda: world.current.revision)
        shelves = Shelves(self.shop, lambda: self.shop.now)
        self._recommender = Recommender(catalog, world.snapshots, world.frozen, queue, 2.5, shelves)

    def ids(self, **asked: Any) -> list[str]:
        found = asyncio.run(self._recommender.recommend(replace(ASKED, **asked)))
        first = 1 + asked.get("offset", 0)
        assert [item.rank for item in found.items] == list(range(first, first + len(found.items)))
        return [str(item.item_id) for item in found.items]


@pytest.fixture
def counter(world: Any) -> Counter:
    return Counter(world)


def test_a_hidden_item_is_never_in_an_answer_and_comes_back(counter: Counter) -> None:
    before = counter.ids(top_k=8)
    counter.shop.change("7", hidden=True)
    assert counter.ids(top_k=8) == [one for one in before if one != "7"]
    assert counter.ids(candidates=("7", "8")) == ["8"]
    counter.shop.change("7", hidden=False)
    assert counter.ids(top_k=8) == before


def test_a_deleted_item_is_never_in_an_answer(counter: Counter) -> None:
    counter.shop.change("7", deleted=True)
    assert "7" not in counter.ids(top_k=50)


def test_an_item_is_shown_between_its_times(counter: Counter) -> None:
    counter.shop.change("7", available_from=NOW + 10, available_until=NOW + 20)
    shown = {}
    for after in (0, 10, 19, 20):
        counter.shop.now = NOW + after
        shown[after] = "7" in counter.ids(top_k=50)
    assert shown == {0: False, 10: True, 19: True, 20: False}


def test_the_catalog_is_read_again_only_when_it_changed(counter: Counter) -> None:
    for _ in range(3):
        counter.ids()
    assert counter.shop.readings == 1
    counter.shop.change("7", attributes={"price": 3.0})
    counter.ids()
    assert counter.shop.readings == 2


def test_a_narrow_filter_still_fills_the_answer_wherever_its_items_stand(counter: Counter) -> None:
    wanted = counter.ids(top_k=8)[-3:]
    for item_id in wanted:
        counter.shop.change(item_id, attributes={"in_stock": True})
    conditions = (condition(attribute_field("in_stock"), any_of=[True]),)
    assert set(counter.ids(top_k=3, conditions=conditions)) == set(wanted)


def test_what_is_excluded_makes_room_for_others(counter: Counter) -> None:
    first = counter.ids(top_k=4)
    rest = counter.ids(top_k=4, exclude=(ById(first[0]), "Film 9", "no item of this title"))
    assert len(rest) == 4
    assert not {first[0], "9"} & set(rest)
    assert counter.ids(candidates=("8", "9"), exclude=("Film 9",)) == ["8"]


def test_pages_by_offset_are_the_order_cut_into_pieces(counter: Counter) -> None:
    whole = counter.ids(top_k=8)
    assert [one for offset in (0, 3, 6) for one in counter.ids(top_k=3, offset=offset)] == whole


def test_diversity_keeps_the_best_first_and_spreads_what_follows(counter: Counter) -> None:
    plain = counter.ids(top_k=8)
    spread = counter.ids(top_k=8, diversity=0.8)
    assert spread[0] == plain[0]
    assert set(spread) == set(plain)
    assert spread != plain
    assert counter.ids(top_k=8, diversity=0.8, rank_by=RankBy.SCORE)


# Filters

ENTRY = CatalogEntry(
    Item("1", "A film", 1995, ("Drama", "War"), "Ann"), attributes={"price": 4.5, "stock": True, "count": 1}
)


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        (condition(CATEGORY, any_of=["War", "Horror"]), True),
        (condition(CATEGORY, any_of=["Horror"]), False),
        (condition(CATEGORY, all_of=["War", "Drama"]), True),
        (condition(CATEGORY, all_of=["War", "Horror"]), False),
        (condition(CATEGORY, none_of=["Horror"]), True),
        (condition(CATEGORY, none_of=["War"]), False),
        (condition(YEAR, least=1995, most=1995), True),
        (condition(YEAR, least=1996), False),
        (condition(YEAR, most=1994), False),
        (condition(AUTHOR, any_of=["Ann"]), True),
        (condition(attribute_field("price"), least=4, most=5), True),
        (condition(attribute_field("price"), any_of=[4.5]), True),
        (condition(attribute_field("stock"), any_of=[True]), True),
        (condition(attribute_field("stock"), any_of=[1]), False),
        (condition(attribute_field("stock"), least=0), False),
        (condition(attribute_field("count"), any_of=[True]), False),
        (condition(attribute_field("absent"), none_of=["x"]), True),
        (condition(attribute_field("absent"), any_of=["x"]), False),
        (condition(attribute_field("absent"), least=0), False),
    ],
)
def test_a_condition_is_about_one_field(wanted: Condition, holds: bool) -> None:
    assert wanted.holds_of(ENTRY) is holds
    shelf = Shelf(0, [ENTRY])
    assert shelf.shows("1", (wanted,), NOW) is holds
    assert shelf.shown("g", {"1": 0, "unknown": 1}, (wanted,), NOW).tolist() == [holds, False]


# Diversity


def test_without_diversity_the_order_is_that_of_the_values() -> None:
    value = np.array([0.2, 0.9, 0.5])
    assert diversified(value, np.eye(3), 3, 0.0) == [1, 2, 0]
    assert diversified(np.zeros(0), np.zeros((0, 3)), 5, 0.5) == []


def test_of_two_alike_the_second_waits() -> None:
    value = np.array([1.0, 0.9, 0.5])
    embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert diversified(value, embeddings, 3, 0.5) == [0, 2, 1]
    assert diversified(value, embeddings, 2, 0.1) == [0, 1]

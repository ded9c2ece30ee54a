"""Time decides which of two rows of one user and item counts, and a created item lives as long as a row names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.data.interactions import Interactions
from service.ledger import Ledger
from service.records import Interaction, Item

ITEM = Item("i", "Title")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{tmp_path}/ledger.db", b"secret") as opened:
        yield opened


def held(ledger: Ledger) -> list[tuple[bool, int]]:
    return [(row.liked, row.timestamp) for own in ledger.view().interactions.values() for row in own]


BEST_FIRST = [
    Interaction("u", "i", False, 9, 1.0),
    Interaction("u", "i", False, 5, 4.0),
    Interaction("u", "i", True, 5, 3.5),
    Interaction("u", "i", False, 5, 3.5),
    Interaction("u", "i", True, 5),
    Interaction("u", "i", False, 5),
    Interaction("u", "i", True, -5, 5.0),
]


@pytest.mark.parametrize("best", range(len(BEST_FIRST) - 1))
@pytest.mark.parametrize("turned", [False, True])
def test_the_newest_counts_then_the_larger_rating_then_liked(ledger: Ledger, best: int, turned: bool) -> None:
    better, worse = BEST_FIRST[best : best + 2]
    rows = [worse, better] if turned else [better, worse]
    expected = [(better.liked, better.timestamp)]
    assert ledger.import_data([ITEM], rows, "item").folded == 1
    assert held(ledger) == expected
    ledger.forget("u", None, None)
    ledger.import_data([], rows[:1], None, allow_returning=True)
    counts = ledger.import_data([], rows[1:], None)
    assert held(ledger) == expected
    assert counts.outdated == (not turned)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(rows=st.permutations(BEST_FIRST), cut=st.integers(0, len(BEST_FIRST)))
def test_the_order_of_lines_does_not_matter(rows: list[Interaction], cut: int) -> None:
    whole = list(Interactions.of(rows).newest())
    halves = [*Interactions.of(rows[:cut]).newest(), *Interactions.of(rows[cut:]).newest()]
    assert whole == list(Interactions.of(halves).newest()) == BEST_FIRST[:1]


def test_columns_give_back_what_was_put_in() -> None:
    rows = [Interaction(f"u{n % 3}", f"i{n}", n % 2 == 0, n - 2, None if n % 2 else n / 2) for n in range(6)]
    kept = Interactions.of(rows)
    assert kept == rows
    assert [row.rating for row in kept] == [row.rating for row in rows]
    assert [[row.user_id for row in some] for some in kept.newest().by_users(1)] == [["u0"] * 2, ["u1"] * 2, ["u2"] * 2]
    assert list(Interactions.of([]).newest()) == []
    assert "u0" not in repr(kept)


def test_a_rating_alone_changes_nothing_that_is_built(ledger: Ledger) -> None:
    ledger.import_data([ITEM], [Interaction("u", "i", True, 5)], "item")
    revision = ledger.mask().revision
    assert ledger.import_data([], [Interaction("u", "i", True, 5, 4.0)], None).changed_interactions == 0
    assert ledger.mask().revision == revision
    assert ledger.import_data([], [Interaction("u", "i", False, 5, 3.0)], None).outdated == 1  # it is kept all the same


# Created items


def test_an_item_is_created_for_a_row_and_goes_with_the_last_one(ledger: Ledger) -> None:
    rows = [Interaction(user, item, True, 5) for user in ("ann", "bob") for item in ("i", "shared", f"{user}'s")]
    assert ledger.import_data([ITEM], rows, "item", create_items=True).created_items == 3
    assert ledger.items_by_id(["ann's"]) == {"ann's": Item("ann's", "ann's", created=True)}
    ledger.forget("ann", None, None)
    assert {item.item_id for item in ledger.items()} == {"i", "shared", "bob's"}
    left = ledger.search("ann's")
    assert (left.found, left.item_ids) == ({}, 0)
    ledger.forget("bob", ["shared"], None)
    assert {item.item_id for item in ledger.items()} == {"i", "bob's"}
    ledger.forget("bob", None, None)
    assert ledger.items() == (ITEM,)  # what a catalog states stays, whoever met it
    assert ledger.unnamed_items() == 0


def test_what_a_catalog_states_later_is_created_no_more(ledger: Ledger) -> None:
    ledger.import_data([], [Interaction("ann", "new", True, 5)], "item", create_items=True)
    stated = Item("new", "A Title (2001)", 2001)
    ledger.import_data([stated], [], "item")
    ledger.import_data([], [Interaction("bob", "new", True, 5)], "item", create_items=True)
    assert ledger.items() == (stated,)
    for user in ("ann", "bob"):
        ledger.forget(user, None, None)
    assert ledger.items() == (stated,)


def test_no_item_is_created_for_a_row_of_somebody_forgotten(ledger: Ledger) -> None:
    ledger.import_data([ITEM], [Interaction("ann", "i", True, 5)], "item")
    ledger.forget("ann", None, None)
    counts = ledger.import_data([], [Interaction("ann", "ann's", True, 6)], "item", create_items=True)
    assert (counts.tombstoned, counts.created_items, ledger.items()) == (1, 0, (ITEM,))

"""Rows and items that arrive while a generation is served: held at once, and counted from the next full build on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import InvalidInput
from service.ledger import Event, EventOutcome, Ledger
from service.records import Interaction, Item, LedgerView

SECRET = b"a secret of the tests"
ITEMS = [Item(f"i{n}", f"Title {n} (1999)", 1999, ("Drama", "War")) for n in range(6)]
NEW, CHANGED, UNCHANGED = EventOutcome.NEW, EventOutcome.CHANGED, EventOutcome.UNCHANGED


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.thorough)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "sqlite":
        with Ledger(f"sqlite:///{tmp_path}/ledger.db", SECRET) as opened:
            yield opened
        return
    with request.getfixturevalue("new_database")() as url, Ledger(url, SECRET) as opened:
        yield opened


@pytest.fixture
def served(ledger: Ledger) -> Ledger:
    """Ann and Bob count, and a full build has begun."""
    ledger.import_data(ITEMS, [row("ann", 0), row("ann", 1), row("bob", 1), row("bob", 2, liked=False)], "movie")
    ledger.advance_horizon()
    return ledger


def row(user: str, number: int, time: int | None = None, liked: bool = True) -> Interaction:
    return Interaction(user, f"i{number}", liked, 1_000 + number if time is None else time)


def counted(view: LedgerView) -> set[tuple[str, str, bool]]:
    return {(r.user_id, r.item_id, r.liked) for rows in view.interactions.values() for r in rows}


BEFORE = {("ann", "i0", True), ("ann", "i1", True), ("bob", "i1", True), ("bob", "i2", False)}


# Rows


def test_before_the_first_full_build_everything_counts(ledger: Ledger) -> None:
    ledger.import_data(ITEMS, [row("ann", 0)], "movie")
    assert ledger.take_events([Event(row("ann", 1)), Event(row("cid", 1))]) == [NEW, NEW]
    assert counted(ledger.view()) == {("ann", "i0", True), ("ann", "i1", True), ("cid", "i1", True)}
    assert ledger.beyond_horizon() == 0


def test_a_row_that_arrives_is_held_at_once_and_counts_from_the_next_full_build_on(served: Ledger) -> None:
    assert served.take_events([Event(row("ann", 3)), Event(row("cid", 4))]) == [NEW, NEW]
    served.import_data([], [row("bob", 5)], None)
    assert [o.item.item_id for o in served.history("ann", 9)] == ["i0", "i1", "i3"]
    assert served.seen("cid") == {"i4"}
    assert (served.counts().interactions, served.counts().users) == (7, 3)
    assert counted(served.view()) == BEFORE
    assert served.beyond_horizon() == 3
    assert served.advance_horizon() == 3
    assert counted(served.view()) == BEFORE | {("ann", "i3", True), ("cid", "i4", True), ("bob", "i5", True)}
    assert (served.counts().interactions, served.counts().users, served.beyond_horizon()) == (7, 3, 0)


def test_a_row_that_a_newer_one_replaces_counts_until_the_horizon_moves(served: Ledger) -> None:
    assert served.take_events([Event(row("ann", 1, 5_000, liked=False))]) == [CHANGED]
    assert [(o.item.item_id, o.liked) for o in served.history("ann", 9)] == [("i0", True), ("i1", False)]
    assert counted(served.view()) == BEFORE
    served.advance_horizon()
    assert counted(served.view()) == BEFORE - {("ann", "i1", True)} | {("ann", "i1", False)}


def test_only_those_of_whom_something_arrived_are_read_again(served: Ledger) -> None:
    served.begin_fingerprint("places")
    with served.read_transaction() as transaction:
        served.save_assignments(transaction.changed(None, None), [])
    served.take_events([Event(row("ann", 3)), Event(row("cid", 3)), Event(replace(row("bob", 1), rating=4.0))])
    with served.read_transaction() as transaction:
        assert transaction.changed(None, None) == {}
    served.advance_horizon()
    with served.read_transaction() as transaction:
        assert transaction.changed(None, None).keys() == {"ann", "cid"}  # a rating alone changes nothing that is built


def test_events_make_no_cache_old_and_a_moved_horizon_does(served: Ledger) -> None:
    before = served.mask().revision
    served.take_events([Event(row("ann", 3))])
    assert served.mask().revision == before
    served.advance_horizon()
    moved = served.mask().revision
    assert moved > before
    assert served.advance_horizon() == 0
    assert served.mask().revision == moved


def test_a_forgotten_person_leaves_nothing_on_either_side_of_the_horizon(served: Ledger) -> None:
    told = [Event(row("ann", 1, 5_000), "e1"), Event(row("ann", 3), "e2"), Event(row("cid", 3), "e3")]
    served.take_events(told)
    assert served.forget("ann", None, None).request.erased_interactions == 3
    assert served.forget("cid", None, None).request.erased_interactions == 1
    assert served.seen("ann") == served.seen("cid") == frozenset()
    assert served.search("ann").found == {}
    assert served.take_events(told) == [EventOutcome.FORGOTTEN] * 3
    served.advance_horizon()
    assert counted(served.view()) == {("bob", "i1", True), ("bob", "i2", False)}


def test_a_single_interaction_is_forgotten_with_the_row_that_it_replaced(served: Ledger) -> None:
    served.take_events([Event(row("ann", 1, 5_000, liked=False), "e1"), Event(row("ann", 3), "e2")])
    assert served.forget("ann", ["i1"], None).request.erased_interactions == 1
    assert served.seen("ann") == {"i0", "i3"}
    assert counted(served.view()) == BEFORE - {("ann", "i1", True)}
    assert served.take_events([Event(row("ann", 1, 9_000), "e1"), Event(row("ann", 3), "e2")]) == [
        EventOutcome.FORGOTTEN,
        EventOutcome.DUPLICATE,
    ]


def test_an_item_that_only_a_forgotten_persons_arrival_names_goes_with_it(served: Ledger) -> None:
    served.import_data([], [Interaction("cid", "a film of cid's", True, 1)], None, create_items=True)
    assert "a film of cid's" in served.item_ids()
    served.forget("cid", None, None)
    assert "a film of cid's" not in served.item_ids()
    assert (served.search("a film of cid's").found, served.unnamed_items()) == ({}, 0)


# A full build under way


def when_due(ledger: Ledger) -> LedgerView:
    with ledger.read_transaction_when_due() as transaction:
        return transaction.view()


def test_what_is_due_is_what_had_arrived_when_the_full_build_began(served: Ledger) -> None:
    served.take_events([Event(row("ann", 3)), Event(row("ann", 1, 5_000, liked=False))])
    assert not served.is_full_build_under_way()
    served.begin_full_build()
    assert served.is_full_build_under_way()
    served.take_events([Event(row("ann", 3, 6_000, liked=False)), Event(row("cid", 4))])
    served.begin_full_build()  # it goes on with what it began with
    assert counted(served.view()) == BEFORE
    due = BEFORE - {("ann", "i1", True)} | {("ann", "i1", False), ("ann", "i3", True)}
    assert counted(when_due(served)) == due
    assert [(o.item.item_id, o.liked) for o in served.history("ann", 9)] == [("i0", True), ("i1", False), ("i3", False)]
    assert (served.counts().interactions, served.beyond_horizon()) == (6, 4)
    expected = when_due(served)
    assert served.advance_horizon() == 2
    assert not served.is_full_build_under_way()
    assert served.view() == expected
    assert (counted(served.view()), served.beyond_horizon()) == (due, 2)
    assert served.advance_horizon() == 2
    assert counted(served.view()) == due - {("ann", "i3", True)} | {("ann", "i3", False), ("cid", "i4", True)}


def test_an_item_that_changes_during_a_full_build_changes_for_the_next_one(served: Ledger) -> None:
    def renamed(title: str) -> None:
        served.import_data([replace(ITEMS[2], title=title)], [], None)

    renamed("Before (2001)")
    served.begin_full_build()
    renamed("During (2002)")
    served.import_data([Item("i9", "New (2003)")], [], None)
    assert served.view().items == tuple(ITEMS)
    due = (*ITEMS[:2], replace(ITEMS[2], title="Before (2001)"), *ITEMS[3:])
    assert when_due(served).items == due
    assert {item.title for item in served.items()} >= {"During (2002)", "New (2003)"}
    served.advance_horizon()
    assert served.view().items == due
    served.advance_horizon()
    assert {item.title for item in served.view().items} >= {"During (2002)", "New (2003)"}


def test_a_forgotten_person_is_not_due_either(served: Ledger) -> None:
    served.take_events([Event(row("ann", 3)), Event(row("cid", 4))])
    served.begin_full_build()
    served.take_events([Event(row("ann", 3, 7_000))])
    assert served.forget("ann", None, None).request.erased_interactions == 3
    assert served.forget("cid", None, None).request.erased_interactions == 1
    assert served.search("ann").found == {}
    assert counted(when_due(served)) == {("bob", "i1", True), ("bob", "i2", False)}


def test_who_is_restricted_during_a_full_build_waits_for_the_one_after_it(served: Ledger) -> None:
    served.take_events([Event(row("ann", 3)), Event(row("bob", 3))])
    served.begin_full_build()
    served.restraints.restrict("ann", "restriction")
    assert counted(when_due(served)) == {("bob", "i1", True), ("bob", "i2", False), ("bob", "i3", True)}
    served.restraints.lift_restriction("ann")
    assert served.seen("ann") == {"i0", "i1", "i3"}
    served.advance_horizon()
    assert counted(served.view()) == BEFORE | {("bob", "i3", True)}
    served.advance_horizon()
    assert counted(served.view()) == BEFORE | {("bob", "i3", True), ("ann", "i3", True)}


def test_what_is_due_is_exported_and_does_not_count_yet(served: Ledger) -> None:
    served.take_events([Event(row("ann", 3))])
    served.begin_full_build()
    served.take_events([Event(row("ann", 4))])
    assert [(held.item_id, held.counted) for held in served.export("ann").rows] == [
        ("i0", True),
        ("i1", True),
        ("i3", False),
        ("i4", False),
    ]


# Items


def test_a_changed_title_is_served_at_once_and_counts_from_the_next_full_build_on(served: Ledger) -> None:
    served.begin_fingerprint("places")
    with served.read_transaction() as transaction:
        served.save_assignments(transaction.changed(None, None), [])
    renamed, brought = replace(ITEMS[2], title="Another (2001)"), Item("i9", "New (2002)")
    served.import_data([renamed, brought], [], None)
    view = served.view()
    assert view.items == tuple(ITEMS)
    assert view.catalog == (*ITEMS[:2], renamed, *ITEMS[3:], brought)
    with served.read_transaction() as transaction:
        assert transaction.changed(None, None) == {}
    served.advance_horizon()
    assert served.view().items == served.view().catalog == view.catalog
    with served.read_transaction() as transaction:
        assert transaction.changed(None, None).keys() == {"bob"}


# Events


def test_of_one_batch_the_newest_row_of_a_pair_counts_wherever_it_stands(served: Ledger) -> None:
    told = [Event(row("cid", 1, 30)), Event(row("cid", 1, 50, liked=False)), Event(row("cid", 1, 40))]
    assert served.take_events(told) == [EventOutcome.OUTDATED, NEW, EventOutcome.OUTDATED]
    assert served.take_events(told) == [EventOutcome.OUTDATED, UNCHANGED, EventOutcome.OUTDATED]
    assert [o.liked for o in served.history("cid", 9)] == [False]


def test_an_event_that_is_sent_again_changes_nothing_whatever_it_says(served: Ledger) -> None:
    assert served.take_events([Event(row("cid", 1), "e1"), Event(row("cid", 2), "e1")]) == [NEW, EventOutcome.DUPLICATE]
    assert served.take_events([Event(row("cid", 3, 9_999), "e1")]) == [EventOutcome.DUPLICATE]
    assert served.take_events([Event(row("dan", 3), "e1")]) == [NEW]  # each person's own
    assert served.seen("cid") == {"i1"}


def test_a_refused_event_keeps_no_other_out_and_may_be_sent_again(served: Ledger) -> None:
    told = [Event(Interaction("cid", "later", True, 1), "e1"), Event(row("cid", 1), "e2")]
    assert served.take_events(told) == [EventOutcome.UNKNOWN_ITEM, NEW]
    served.import_data([Item("later", "Later (2003)")], [], None)
    assert served.take_events(told) == [NEW, EventOutcome.DUPLICATE]


def test_whoever_comes_back_of_their_own_will_is_taken_in(served: Ledger) -> None:
    served.forget("ann", None, None)
    assert served.take_events([Event(row("ann", 3))]) == [EventOutcome.FORGOTTEN]
    assert served.take_events([Event(row("ann", 3))], allow_returning=True) == [NEW]
    assert served.take_events([Event(row("ann", 4))]) == [NEW]
    assert served.seen("ann") == {"i3", "i4"}


def test_what_is_no_id_is_refused_and_nothing_is_taken(served: Ledger) -> None:
    with pytest.raises(InvalidInput, match="item_id is empty"):
        served.take_events([Event(row("cid", 1)), Event(Interaction("cid", "  ", True, 1))])
    with pytest.raises(InvalidInput, match="event_id"):
        served.take_events([Event(row("cid", 1), "a\0b")])
    assert served.seen("cid") == frozenset()
    assert served.take_events([Event(Interaction(" cid ", " i1 ", True, 1))]) == [NEW]
    assert served.seen("cid") == {"i1"}

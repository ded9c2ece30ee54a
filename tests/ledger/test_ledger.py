"""What the ledger promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import psycopg
import pytest

from service.errors import (
    IdempotencyConflict,
    ImportRefused,
    InvalidInput,
    InvalidSetting,
    LedgerUnavailable,
    UnknownRequest,
    UnknownUser,
)
from service.ledger import Ledger
from service.ledger.masks import MaskedArtifacts
from service.records import (
    BuildConfig,
    ById,
    ByTitle,
    Interaction,
    Item,
    ItemName,
    Published,
    RatedItem,
    ShardAssignment,
    Tombstone,
)
from tests.manifests import MODEL

SECRET = b"a secret of the tests"
CANARY = "canary-7f3b1e"
DONE = 2_000_000_000.5  # when a request is completed
ITEMS = [Item(f"i{n}", f"Title {n} (1999)", 1999, ("Drama", "War"), None) for n in range(8)]


def rows_of(user: str, *numbers: int, liked: bool = True) -> list[Interaction]:
    return [Interaction(user, f"i{number}", liked, 1_000 + number) for number in numbers]


_stops: list[str] = []


def _stop(event: str, _arguments: object) -> None:
    if event in _stops:
        raise RuntimeError("the machine stops here")


sys.addaudithook(_stop)  # for good, so it looks at a list


@contextmanager
def stopping_at(step: str) -> Iterator[None]:
    """Whatever reaches this step of a deletion fails there."""
    _stops.append(step)
    yield
    _stops.remove(step)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.thorough)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.db"
        return
    with request.getfixturevalue("new_database")() as database:
        yield database


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger(url, SECRET) as opened:
        yield opened


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    ledger.import_data(ITEMS, [*rows_of("ann", 0, 1, 2), *rows_of("bob", 2, 3)], "movie")
    ledger.record_lineage(0, {"adapter-a": ["ann"], "adapter-b": ["ann", "bob"]}, {"row-1": "ann", "row-2": "bob"})
    return ledger


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    return tmp_path / "traces" / "ledger.db"


# Import


def test_an_import_tells_what_it_found_and_did(ledger: Ledger) -> None:
    first = ledger.import_data(ITEMS, rows_of("ann", 0, 1), "movie")
    assert (first.items, first.interactions, first.users, first.new_items, first.new_interactions) == (8, 2, 1, 8, 2)
    changed = [replace(ITEMS[0], year=2000), *ITEMS[1:]]
    second = ledger.import_data(changed, [Interaction("ann", "i0", False, 2_000), *rows_of("ann", 1, 2)], None)
    assert (second.new_items, second.new_interactions, second.changed_interactions) == (0, 1, 1)
    assert ledger.items_by_id(["i0", "nothing"]) == {"i0": changed[0]}
    assert ledger.item_type() == "movie"


def test_importing_twice_changes_nothing(ledger: Ledger) -> None:
    ledger.import_data(ITEMS, rows_of("ann", 0, 1), "movie")
    before = ledger.mask().revision, ledger.view()
    again = ledger.import_data(reversed(ITEMS), reversed(rows_of("ann", 0, 1)), "movie")
    assert (again.new_items, again.new_interactions, again.changed_interactions) == (0, 0, 0)
    assert (ledger.mask().revision, ledger.view()) == before


def test_an_import_that_changes_something_raises_the_revision(ledger: Ledger) -> None:
    ledger.import_data(ITEMS, rows_of("ann", 0), "movie")
    before = ledger.mask().revision
    ledger.import_data([], rows_of("ann", 1), None)
    assert ledger.mask().revision > before


def test_a_row_of_an_unknown_item_leaves_nothing_of_the_import(ledger: Ledger) -> None:
    rows = [*rows_of("ann", 0), Interaction("ann", "elsewhere", True, 1), *rows_of("ann", 1)]
    with pytest.raises(ImportRefused) as refused:
        ledger.import_data(ITEMS, rows, "movie")
    assert "ann" not in str(refused.value).split()
    assert (ledger.counts().items, ledger.counts().interactions, ledger.item_type()) == (0, 0, "item")


def test_what_the_database_refuses_in_the_middle_leaves_nothing_of_the_import(ledger: Ledger) -> None:
    broken = [*ITEMS[:3], replace(ITEMS[3], year="not a year\x00"), *ITEMS[4:]]  # type: ignore[arg-type] # no year
    rows = [*rows_of("ann", 0), Interaction("ann", "i1", None, 5)]  # type: ignore[arg-type] # no opinion
    with pytest.raises((LedgerUnavailable, TypeError, ValueError)):
        ledger.import_data(broken, rows, "movie")
    assert (ledger.counts().items, ledger.counts().interactions) == (0, 0)


@pytest.mark.parametrize("bad", ["nul\0", "half \ud800"])
def test_text_that_no_database_stores_is_refused_as_the_input_it_is(ledger: Ledger, bad: str) -> None:
    with pytest.raises(ImportRefused):
        ledger.import_data(ITEMS, [Interaction(bad, "i0", True, 1)], "movie")
    for ask in (
        ledger.subject,
        ledger.seen,
        lambda user: ledger.history(user, 3),
        lambda u: ledger.forget(u, None, None).request,
    ):
        with pytest.raises(InvalidInput):
            ask(bad)
    assert ledger.items_by_id([bad]) == {}
    assert ledger.items_meant([bad]) == {}
    with pytest.raises(UnknownRequest):
        ledger.request(bad)


def test_a_timestamp_out_of_range_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ImportRefused):
        ledger.import_data(ITEMS, [Interaction("ann", "i0", True, 2**63)], "movie")


def test_a_ledger_keeps_to_one_noun(ledger: Ledger) -> None:
    ledger.import_data(ITEMS, [], "movie")
    with pytest.raises(ImportRefused):
        ledger.import_data([], [], "book")


def test_the_view_does_not_depend_on_the_order_of_arrival(ledger: Ledger, tmp_path: Path) -> None:
    rows = [
        Interaction(user, f"i{n}", bool(n % 2), 5 + n // 3)
        for user in ("Zoe", "ann", "émile", "10", "9")
        for n in range(8)
    ]
    shuffled = random.Random(3).sample(rows, len(rows))
    ledger.import_data(ITEMS, rows, "movie")
    with Ledger(f"sqlite:///{tmp_path}/other.db", SECRET) as other:
        other.import_data([], [], "movie")
        for row in shuffled:
            other.import_data(random.Random(4).sample(ITEMS, len(ITEMS)), [row], "movie")
        assert other.view() == ledger.view()
    interactions = ledger.view().interactions
    assert list(interactions) == sorted(interactions)
    for mine in interactions.values():
        assert list(mine) == sorted(mine, key=lambda row: (row.timestamp, row.item_id))


# Questions


def test_a_history_is_the_last_opinions_oldest_first(ledger: Ledger) -> None:
    rows = [Interaction("ann", "i3", True, 7), Interaction("ann", "i1", False, 7), Interaction("ann", "i5", True, 1)]
    ledger.import_data(ITEMS, rows, "movie")
    assert ledger.history("ann", 2) == (RatedItem(ITEMS[1], False), RatedItem(ITEMS[3], True))
    assert ledger.seen("ann") == {"i1", "i3", "i5"}
    assert ledger.seen("nobody") == frozenset()


def test_an_unknown_user_is_not_named(ledger: Ledger) -> None:
    with pytest.raises(UnknownUser) as unknown:
        ledger.history(CANARY, 10)
    assert str(unknown.value) == "nothing is held of this user"


def test_an_exact_title_means_every_item_that_has_it_and_no_other(ledger: Ledger) -> None:
    twins = [Item("b", "Heat"), Item("a", "Heat"), Item("c", "heat")]
    ledger.import_data(twins, [], "movie")
    assert ledger.items_meant(["Heat", "Cold"]) == {"Heat": [Item("a", "Heat"), Item("b", "Heat")]}


def test_a_title_as_people_write_it_means_the_items_whose_titles_say_the_same(ledger: Ledger) -> None:
    matrix, old, new = Item("a", "Matrix, The (1999)"), Item("b", "Titanic (1953)"), Item("c", "Titanic", year=1997)
    ledger.import_data([matrix, old, new], [], "movie")
    asked: list[ItemName] = [
        "the matrix",
        "Matrix",
        "Matrix (1999)",
        "Matrix (2003)",
        "TITANIC",
        "Titanic (1997)",
        "()",
        ByTitle("matrix"),
    ]
    assert ledger.items_meant([*asked, ById("matrix")]) == {
        "the matrix": [matrix],
        "Matrix": [matrix],
        "Matrix (1999)": [matrix],
        "TITANIC": [old, new],
        "Titanic (1997)": [new],
        ByTitle("matrix"): [matrix],
    }


def test_an_item_with_another_title_is_found_by_the_new_one(ledger: Ledger) -> None:
    ledger.import_data([Item("a", "Alien")], [], "movie")
    ledger.import_data([Item("a", "Aliens")], [], "movie")
    assert ledger.items_meant(["ALIEN", "ALIENS"]) == {"ALIENS": [Item("a", "Aliens")]}


def test_an_item_is_named_by_its_id_before_anothers_title(ledger: Ledger) -> None:
    ledger.import_data([Item("a", "b"), Item("b", "Heat"), Item("c", "c")], [], "movie")
    assert ledger.items_meant(["b", "a", "c", "Heat"]) == {
        "a": [Item("a", "b")],
        "b": [Item("b", "Heat")],
        "c": [Item("c", "c")],
        "Heat": [Item("b", "Heat")],
    }


def test_more_names_than_one_statement_takes_are_all_found(ledger: Ledger) -> None:
    items = [Item(f"i{number}", f"Film {number % 900}") for number in range(1_200)]
    ledger.import_data(items, [], "movie")
    found = ledger.items_meant([*(item.item_id for item in items), *(f"Film {number}" for number in range(900))])
    assert all(found[item.item_id] == [item] for item in items)
    assert found["Film 5"] == [items[5], items[905]]


def test_the_same_user_has_the_same_subject_only_under_the_same_secret(ledger: Ledger, tmp_path: Path) -> None:
    with Ledger(f"sqlite:///{tmp_path}/other.db", b"another") as other:
        assert other.subject("ann") != ledger.subject("ann") == ledger.subject("ann")
    assert len(ledger.subject("ann")) == 64


# Where units stand


def test_placements_and_partitions_are_kept_only_of_users_who_are_held(filled: Ledger) -> None:
    remember(filled, "ann", "bob")
    filled.save_assignments({"gone": 1}, [assignment("gone")])
    assert remembered(filled) == {"ann", "bob"}
    filled.record_partition("p", [("ann", "ann", "0"), ("gone", "gone", "1")])
    filled.record_partition("q", [("ann", "ann", "7")])
    assert filled.recorded_partition("p") == {"ann": "0"}
    filled.forget("ann", None, None)
    assert remembered(filled) == {"bob"}
    assert (filled.recorded_partition("p"), filled.recorded_partition("q")) == ({}, {})


def changed(ledger: Ledger) -> dict[str, int]:
    with ledger.read_transaction() as transaction:
        return transaction.changed(None, None)


def assignment(user: str) -> ShardAssignment:
    return ShardAssignment(user, user, "01", 2, f"digest of {user}")


def remember(ledger: Ledger, *users: str) -> None:
    now = changed(ledger)
    ledger.save_assignments({user: now[user] for user in users}, [assignment(user) for user in users])


def remembered(ledger: Ledger) -> set[str]:
    with ledger.read_transaction() as transaction:
        return {assignment.user_id for assignment in transaction.assignments_under("")}


def test_what_is_remembered_of_a_user_falls_with_any_change_of_theirs_and_of_nobody_else(filled: Ledger) -> None:
    def of_ann(change: Callable[[], object]) -> None:
        remember(filled, *changed(filled))
        assert remembered(filled) == {"ann", "bob"}
        change()
        assert (remembered(filled), set(changed(filled))) == ({"bob"}, {"ann"})

    of_ann(lambda: filled.import_data([], rows_of("ann", 7), None))
    of_ann(lambda: filled.import_data([], [Interaction("ann", "i7", False, 9_999)], None))
    of_ann(lambda: filled.forget("ann", ["i7"], None).request)
    remember(filled, *changed(filled))
    filled.import_data([], rows_of("ann", 0), None)
    filled.forget("ann", ["no such item"], None)
    assert changed(filled) == {}
    filled.forget("ann", None, None)
    assert (remembered(filled), changed(filled)) == ({"bob"}, {})


def test_an_item_that_changes_makes_builds_read_again_who_has_met_it(filled: Ledger) -> None:
    remember(filled, *changed(filled))
    filled.import_data([Item("new", "New")], [], None)
    assert changed(filled) == {}
    filled.import_data([replace(ITEMS[0], title="Another")], [], None)
    assert (remembered(filled), set(changed(filled))) == ({"bob"}, {"ann"})
    filled.import_data([replace(ITEMS[2], author="Somebody")], [], None)
    assert (remembered(filled), set(changed(filled))) == (set(), {"ann", "bob"})


def test_who_changes_while_a_build_reads_them_is_not_remembered_as_they_were(filled: Ledger) -> None:
    before = changed(filled)
    filled.import_data([], [Interaction("ann", "i0", False, 9_999)], None)
    filled.save_assignments(before, [assignment("ann"), assignment("bob")])
    assert remembered(filled) == {"bob"}
    assert set(changed(filled)) == {"ann"}


def test_who_loses_their_last_interaction_is_named_nowhere_in_what_is_remembered(filled: Ledger) -> None:
    remember(filled, *changed(filled))
    filled.forget("ann", sorted(filled.seen("ann")), None)
    assert (remembered(filled), changed(filled)) == ({"bob"}, {})


def test_units_are_read_in_the_order_of_the_tree_and_by_node(filled: Ledger) -> None:
    now = changed(filled)
    units = [
        ShardAssignment("a-1", "ann", "10", 1, "d1"),
        ShardAssignment("a-2", "ann", "01", 2, "d2"),
        ShardAssignment("b-1", "bob", "011", 3, "d3"),
        ShardAssignment("bob", "bob", "", 4, "d4"),
    ]
    filled.save_assignments(now, units)
    with filled.read_transaction() as transaction:
        columns = transaction.assignment_columns()
        assert (columns.paths, columns.samples, columns.digests) == (["01", "011", "10"], [2, 3, 1], ["d2", "d3", "d1"])
        assert [assignment.unit_key for assignment in transaction.assignments_under("01")] == ["a-2", "b-1"]
        assert [assignment.unit_key for assignment in transaction.assignments_under("")] == ["a-2", "b-1", "a-1"]
        assert transaction.validating() == units[3:]
        assert transaction.exposed() == {
            ("adapter", "adapter-a"): 1,
            ("adapter", "adapter-b"): 2,
            ("row", "row-1"): 1,
            ("row", "row-2"): 1,
        }


def test_units_of_all_paths_are_read_in_their_order(filled: Ledger) -> None:
    paths = [path for length in range(1, 7) for path in map("".join, product("01", repeat=length))]
    units = [ShardAssignment(f"{path}-{twin}", "ann", path, len(path), f"d{path}") for path in paths for twin in (1, 2)]
    filled.save_assignments(changed(filled), units[::2][::-1] + units[1::2])
    with filled.read_transaction() as transaction:
        columns = transaction.assignment_columns()
    read = list(zip(columns.paths, columns.samples, columns.digests, strict=True))
    assert read == sorted((unit.path, unit.samples, unit.digest) for unit in units)


def test_another_outline_makes_builds_read_everybody_again(filled: Ledger) -> None:
    remember(filled, *changed(filled))
    before = filled.mask().revision
    filled.begin_fingerprint("another")
    assert (remembered(filled), set(changed(filled))) == (set(), {"ann", "bob"})
    with filled.read_transaction() as transaction:
        assert transaction.fingerprint == "another"
    assert filled.mask().revision > before


def test_a_reading_sees_one_moment(filled: Ledger) -> None:
    with filled.read_transaction() as transaction:
        before = transaction.view()
        filled.forget("ann", None, None)
        assert transaction.view() == before
        assert list(transaction.view(["ann", "nobody"]).interactions) == ["ann"]
    with filled.read_transaction() as transaction:
        assert transaction.view(["ann", "bob"]).interactions == transaction.view().interactions
        assert transaction.fence == 1


# Forgetting


def test_forgetting_deletes_and_masks_and_moves_the_fence_at_once(filled: Ledger) -> None:
    before = filled.mask()
    request = filled.forget("ann", None, None).request
    after = filled.mask()
    assert (request.state, request.scope, request.fence) == ("accepted", "user", 1)
    assert (request.erased_interactions, request.masked_rows) == (3, 1)
    assert request.affected_shards == ("adapter-a", "adapter-b")
    assert (after.adapters, after.rows) == (frozenset({"adapter-a", "adapter-b"}), frozenset({"row-1"}))
    assert (after.fence, after.revision > before.revision) == (1, True)
    assert list(filled.view().interactions) == ["bob"]
    assert filled.pending() == [request] == [filled.request(request.request_id)]


@pytest.mark.parametrize("step", ["lethe.forget.masked", "lethe.forget.before_commit"])
def test_a_deletion_that_fails_half_way_leaves_all_as_it_was(filled: Ledger, step: str) -> None:
    before = filled.view(), filled.mask(), filled.pending(), filled.tombstones()
    with stopping_at(step), pytest.raises(RuntimeError, match="the machine stops here"):
        filled.forget("ann", None, None)
    assert (filled.view(), filled.mask(), filled.pending(), filled.tombstones()) == before


def test_forgetting_single_interactions_keeps_the_user(filled: Ledger) -> None:
    request = filled.forget("ann", ["i1", "no such item"], None).request
    assert (request.scope, request.erased_interactions, request.state) == ("interactions", 1, "accepted")
    assert filled.seen("ann") == {"i0", "i2"}
    assert filled.mask().adapters == {"adapter-a", "adapter-b"}
    later = filled.forget("ann", None, None).request
    assert (later.fence, later.affected_shards, later.erased_interactions) == (2, ("adapter-a", "adapter-b"), 2)


def test_forgetting_interactions_that_nobody_holds_is_completed_at_once(filled: Ledger) -> None:
    request = filled.forget("ann", ["i7"], None).request
    assert (request.state, request.erased_interactions, filled.mask().adapters) == ("completed", 0, frozenset())


def test_forgetting_no_items_at_all_is_refused(filled: Ledger) -> None:
    with pytest.raises(InvalidInput):
        filled.forget("ann", [], None)


def test_forgetting_a_stranger_is_completed_and_keeps_them_out(filled: Ledger) -> None:
    before = filled.mask()
    request = filled.forget("cy", None, None).request
    assert (request.state, request.erased_interactions, request.fence) == ("completed", 0, before.fence)
    assert request.completed_at == request.masked_at
    assert (filled.mask(), filled.pending()) == (before, [])
    assert filled.import_data([], rows_of("cy", 1), None).tombstoned == 1


def test_nobody_is_told_completed_while_their_deletion_is_owed(filled: Ledger) -> None:
    first = filled.forget("ann", None, None).request
    assert filled.forget("ann", None, None).request == first
    filled.start([first.request_id])
    assert filled.forget("ann", None, None).request.request_id == first.request_id
    filled.complete(first.request_id, "{}", DONE)
    assert filled.forget("ann", None, None).request.state == "completed"


def test_a_user_whose_every_interaction_is_being_forgotten_is_still_owed_their_own_deletion(ledger: Ledger) -> None:
    # A build may have read them before, and not yet have said so.
    ledger.import_data(ITEMS, rows_of("ann", 0), "movie")
    ledger.forget("ann", ["i0"], None)
    request = ledger.forget("ann", None, None).request
    assert request.state == "accepted"
    ledger.record_lineage(0, {"late": ["ann"]}, {})
    assert ledger.mask().adapters == {"late"}


def test_a_user_who_came_back_while_their_deletion_is_owed_can_be_forgotten_again(filled: Ledger) -> None:
    first = filled.forget("ann", None, None).request
    filled.import_data([], rows_of("ann", 4), None, allow_returning=True)
    second = filled.forget("ann", None, None).request
    assert (second.request_id == first.request_id, second.erased_interactions, second.fence) == (False, 1, 2)
    assert filled.seen("ann") == frozenset()


# Tombstones


def test_a_forgotten_user_does_not_come_back_by_a_stale_import(filled: Ledger) -> None:
    filled.forget("ann", None, None)
    counts = filled.import_data(ITEMS, [*rows_of("ann", 0, 1, 4), *rows_of("bob", 2)], "movie")
    assert (counts.tombstoned, counts.new_interactions, counts.users, counts.interactions) == (3, 0, 2, 4)
    assert list(filled.view().interactions) == ["bob"]


def test_a_forgotten_interaction_does_not_come_back_but_others_may(filled: Ledger) -> None:
    filled.forget("ann", ["i1"], None)
    counts = filled.import_data([], rows_of("ann", 1, 5), None)
    assert (counts.tombstoned, filled.seen("ann")) == (1, frozenset({"i0", "i2", "i5"}))


def test_a_user_may_return_when_the_import_says_so(filled: Ledger) -> None:
    filled.forget("ann", ["i1"], None)
    filled.forget("ann", None, None)
    before = filled.mask().revision
    counts = filled.import_data([], rows_of("ann", 1), None, allow_returning=True)
    assert (counts.tombstoned, counts.new_interactions, filled.seen("ann")) == (0, 1, frozenset({"i1"}))
    assert filled.mask().revision > before
    assert filled.import_data([], rows_of("ann", 1, 2), None).tombstoned == 0


# Idempotency


def test_a_key_gives_the_same_answer_again(filled: Ledger) -> None:
    first = filled.forget("ann", ["i1", "i0"], "key").request
    assert filled.forget("ann", ["i0", "i1", "i1"], "key").request == first
    assert filled.mask().fence == 1


@pytest.mark.parametrize(("user", "items"), [("bob", ["i1"]), ("ann", None), ("ann", ["i2"])])
def test_a_key_is_not_taken_for_another_request(filled: Ledger, user: str, items: list[str] | None) -> None:
    filled.forget("ann", ["i1"], "key")
    with pytest.raises(IdempotencyConflict):
        filled.forget(user, items, "key")
    assert filled.mask().fence == 1


def test_a_key_used_while_the_deletion_was_owed_keeps_its_answer(filled: Ledger) -> None:
    first = filled.forget("ann", None, "one").request
    filled.forget("ann", None, "two")
    filled.complete(first.request_id, "{}", DONE)
    assert filled.forget("ann", None, "two").request.request_id == first.request_id


def test_twenty_threads_with_one_key_make_one_request(filled: Ledger) -> None:
    gate = threading.Barrier(20)

    def ask(_: int) -> str:
        gate.wait()
        return filled.forget("ann", None, "key").request.request_id

    with ThreadPoolExecutor(20) as pool:
        assert len(set(pool.map(ask, range(20)))) == 1
    assert (len(filled.pending()), filled.mask().fence) == (1, 1)


def test_concurrent_deletions_each_get_a_fence_of_their_own(ledger: Ledger) -> None:
    users = [f"user-{n}" for n in range(12)]
    ledger.import_data(ITEMS, [row for user in users for row in rows_of(user, 0, 1)], "movie")
    with ThreadPoolExecutor(6) as pool:
        fences = sorted(
            request.fence for request in pool.map(lambda user: ledger.forget(user, None, None).request, users)
        )
    assert fences == list(range(1, 13))
    assert ledger.counts().interactions == 0


# Exposures


def test_who_was_forgotten_after_the_view_is_masked_when_the_build_says_what_it_saw(filled: Ledger) -> None:
    view = filled.view()
    request = filled.forget("ann", None, None).request
    before = filled.mask()
    filled.record_lineage(view.fence, {"new-a": ["ann", "bob"], "new-b": ["bob"]}, {"new-1": "ann", "new-2": "bob"})
    mask = filled.mask()
    assert mask.adapters - before.adapters == {"new-a"}
    assert mask.rows - before.rows == {"new-1"}
    assert mask.revision > before.revision
    filled.complete(request.request_id, "{}", DONE)
    assert filled.mask().adapters == frozenset()
    assert filled.forget("ann", None, None).request.state == "completed"  # so no exposure of hers was kept
    assert filled.forget("bob", None, None).request.affected_shards == ("adapter-b", "new-a", "new-b")


def test_who_was_forgotten_before_the_view_is_not_masked_by_it(filled: Ledger) -> None:
    filled.forget("ann", None, None)
    filled.record_lineage(filled.view().fence, {"clean": ["bob"]}, {})
    assert "clean" not in filled.mask().adapters


def test_a_user_who_loses_single_interactions_during_a_build_is_masked_and_stays_known(filled: Ledger) -> None:
    view = filled.view()
    filled.forget("ann", ["i1"], None)
    filled.record_lineage(view.fence, {"new": ["ann"]}, {})
    assert "new" in filled.mask().adapters
    assert "new" in filled.forget("ann", None, None).request.affected_shards


def test_recording_exposures_again_changes_nothing(filled: Ledger) -> None:
    before = filled.mask()
    filled.record_lineage(0, {"adapter-a": ["ann"]}, {"row-1": "ann"})
    assert filled.mask() == before


def generation(name: str) -> Published:
    return Published(name, 0, BuildConfig(), MODEL, {})


def test_exposures_of_artifacts_that_are_gone_are_dropped(filled: Ledger) -> None:
    assert filled.publish(generation("g"), {"adapter-b"}, {"row-2"})
    filled.drop_lineage_except({"adapter-b"}, {"row-2"}, "g")
    request = filled.forget("ann", None, None).request
    assert (request.affected_shards, request.masked_rows) == (("adapter-b",), 0)


def test_a_mask_outlives_its_request_only_as_long_as_its_artifact(filled: Ledger) -> None:
    view = filled.view()
    request = filled.forget("ann", None, None).request
    filled.complete(request.request_id, "{}", DONE)
    filled.record_lineage(view.fence, {"stale": ["ann"]}, {})
    assert filled.mask().adapters == {"stale"}
    assert filled.publish(generation("g"), {"stale"}, ())
    filled.drop_lineage_except({"stale"}, (), "g")
    assert filled.mask().adapters == {"stale"}
    assert filled.publish(generation("h"), (), ())
    filled.drop_lineage_except((), (), "h")
    assert filled.mask().adapters == frozenset()


def test_nothing_is_published_of_which_nobody_knows_any_more_whom_it_has_seen(filled: Ledger) -> None:
    assert filled.publish(generation("g"), {"adapter-a"}, {"row-1"})
    filled.record_lineage(0, {"adapter-c": ["ann"]}, {"row-3": "bob"})
    filled.drop_lineage_except({"adapter-a"}, {"row-1"}, "g")
    for adapters, rows in (({"adapter-c"}, ()), ((), {"row-3"}), ({"adapter-a", "adapter-b"}, {"row-1"})):
        assert not filled.publish(generation("h"), adapters, rows)
    assert filled.generation() == "g"


def test_exposures_stay_when_another_generation_is_published_by_now(filled: Ledger) -> None:
    assert filled.publish(generation("newer"), {"adapter-a"}, {"row-1"})
    filled.drop_lineage_except({"adapter-b"}, {"row-2"}, "older")
    assert filled.forget("ann", None, None).request.affected_shards == ("adapter-a", "adapter-b")


# The life of a request


def test_a_request_goes_through_its_states(filled: Ledger) -> None:
    identity = filled.forget("ann", None, None).request.request_id
    filled.start([identity])
    first = filled.request(identity)
    assert (first.state, first.attempts, first.retraining_at is not None) == ("retraining", 1, True)
    filled.fail([identity], "the disk is full")
    assert (filled.request(identity).state, filled.request(identity).error) == ("failed", "the disk is full")
    assert [request.request_id for request in filled.pending()] == [identity]
    filled.start([identity])
    again = filled.request(identity)
    assert (again.attempts, again.error, again.retraining_at) == (2, None, first.retraining_at)
    filled.complete(identity, '{"receipt": 1}', DONE)
    done = filled.request(identity)
    assert (done.state, done.receipt, filled.pending()) == ("completed", '{"receipt": 1}', [])
    assert (filled.mask().adapters, filled.mask().rows) == (frozenset(), frozenset())


def test_completing_again_changes_nothing(filled: Ledger) -> None:
    identity = filled.forget("ann", None, None).request.request_id
    filled.complete(identity, "first", DONE)
    before = filled.request(identity), filled.mask()
    filled.complete(identity, "second", DONE)
    filled.fail([identity], "too late")
    filled.start([identity])
    assert (filled.request(identity), filled.mask()) == before


def test_completing_one_request_keeps_the_masks_of_another(filled: Ledger) -> None:
    first, second = filled.forget("ann", None, None).request, filled.forget("bob", None, None).request
    filled.complete(first.request_id, "{}", DONE)
    assert (filled.mask().adapters, filled.mask().rows) == (frozenset({"adapter-b"}), frozenset({"row-2"}))
    assert filled.pending() == [second]


@pytest.mark.parametrize("act", [lambda ledger: ledger.request("x"), lambda ledger: ledger.complete("x", "{}", DONE)])
def test_an_unknown_request_is_said_to_be_unknown(ledger: Ledger, act: Callable[[Ledger], object]) -> None:
    with pytest.raises(UnknownRequest):
        act(ledger)


def test_publishing_is_seen_in_the_mask_and_only_a_change_raises_the_revision(ledger: Ledger) -> None:
    assert (ledger.generation(), ledger.mask().generation) == (None, None)
    published = Published("g1", 3, BuildConfig(epochs=7, lora_targets=("c_attn",)), MODEL, {"torch": "2"})
    ledger.publish(published, [], [])
    before = ledger.mask()
    ledger.publish(published, [], [])
    assert ledger.mask() == before
    assert (before.generation, ledger.generation(), ledger.published()) == ("g1", "g1", published)
    ledger.publish(replace(published, fence=4), [], [])
    assert ledger.mask().revision > before.revision


class Clock:
    """Tells what it is told."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_numbers_for_operators(url: str) -> None:
    clock = Clock(1_000.0)
    with Ledger(url, SECRET, clock) as ledger:
        ledger.import_data(ITEMS, rows_of("ann", 0, 1), "movie")
        assert (ledger.oldest_pending_age(), ledger.overdue(0.0)) == (0.0, 0)
        ledger.forget("ann", None, None)
        clock.now += 9
        assert ledger.oldest_pending_age() == pytest.approx(9)
        assert (ledger.overdue(8.5), ledger.overdue(9.5)) == (1, 0)


def test_a_clock_that_is_set_back_makes_no_deletion_end_before_it_began(url: str) -> None:
    times = iter([1_000.0, 1_000.0, 400.0])  # of the import, too
    with Ledger(url, SECRET, clock=lambda: next(times, 300.0)) as ledger:
        ledger.import_data(ITEMS, rows_of("ann", 0, 1), "movie")
        request = ledger.forget("ann", None, None).request
        assert (request.accepted_at, request.masked_at) == (1_000.0, 1_000.0)
        assert ledger.oldest_pending_age() == 0.0
        later = ledger.forget("stranger", None, None).request
        assert [pending.request_id for pending in ledger.pending()] == [request.request_id]
        assert later.completed_at == 300.0


def test_requests_are_in_the_order_of_their_fences_whatever_the_clock_says(url: str) -> None:
    times = iter(range(100, 0, -1))
    with Ledger(url, SECRET, clock=lambda: float(next(times))) as ledger:
        ledger.import_data(ITEMS, [row for user in "abc" for row in rows_of(user, 0)], "movie")
        requests = [ledger.forget(user, None, None).request for user in "cab"]
        assert [pending.fence for pending in ledger.pending()] == [1, 2, 3]
        assert ledger.pending() == requests


def test_counts_of_states(filled: Ledger) -> None:
    request = filled.forget("ann", None, None).request
    filled.forget("stranger", None, None)
    assert filled.requests_by_state() == {"accepted": 1, "held": 0, "retraining": 0, "completed": 1, "failed": 0}
    filled.complete(request.request_id, "{}", DONE)
    assert [accepted for accepted, _ in filled.completion_times()] == [request.accepted_at]
    filled.set_shards_training(4)
    assert filled.shards_training() == 4


# Traces


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_after_a_deletion_the_user_is_in_none_of_the_files(sqlite_file: Path) -> None:
    everyone = [f"{CANARY}-{n:04}" for n in range(150)]
    items = [Item(f"i{n}", f"Title {n}") for n in range(60)]
    rows = [Interaction(user, f"i{n}", True, n) for user in everyone for n in range(60)]
    gone = everyone[::3]
    with Ledger(f"sqlite:///{sqlite_file}", SECRET) as ledger:
        # In random order, so that pages split: a split leaves copies that deleting rows does not reach.
        ledger.import_data(items, random.Random(1).sample(rows, len(rows)), "movie")
        remember(ledger, *everyone)
        ledger.record_partition("p", [(user, user, "0") for user in everyone])
        ledger.record_lineage(0, {"a": everyone}, {f"row-{n}": user for n, user in enumerate(everyone)})
        assert all(user.encode() in bytes_of(sqlite_file.parent) for user in gone)
        for user in gone:
            ledger.forget(user, None, f"key of {user}")
        ledger.erase_traces()
        content = bytes_of(sqlite_file.parent)
        assert [user for user in gone if user.encode() in content] == []
        assert all(user.encode() in content for user in set(everyone) - set(gone))


def test_a_completed_request_keeps_no_user_id(url: str) -> None:
    with Ledger(url, SECRET) as ledger:
        ledger.import_data(ITEMS, rows_of(CANARY, 0, 1), "movie")
        ledger.record_lineage(0, {"a": [CANARY]}, {"r": CANARY})
        request = ledger.forget(CANARY, None, f"{CANARY}-key").request
        ledger.start([request.request_id])
        ledger.complete(request.request_id, "{}", DONE)
        ledger.erase_traces()
        assert CANARY not in repr(ledger.request(request.request_id))
    if url.startswith("sqlite"):
        assert CANARY.encode() not in bytes_of(Path(url.removeprefix("sqlite:///")).parent)
        return
    with psycopg.connect(url) as connection:
        for (table,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall():
            assert CANARY not in repr(connection.execute(f"SELECT * FROM {table}").fetchall())


def test_erasing_says_when_a_reader_holds_the_old_log(sqlite_file: Path) -> None:
    with Ledger(f"sqlite:///{sqlite_file}", SECRET, busy_seconds=0.2) as ledger:
        ledger.import_data(ITEMS, rows_of("ann", 0), "movie")
        with ledger._database.read_transaction() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM items").all()
            ledger.forget("ann", None, None)
            with pytest.raises(LedgerUnavailable):
                ledger.erase_traces()
        ledger.erase_traces()


@pytest.mark.parametrize("text", [CANARY, "Title 3 (1999)", "i0"])
def test_a_text_is_found_in_every_table_and_an_items_id_is_nobodys(ledger: Ledger, text: str) -> None:
    assert (ledger.search(text).found, ledger.search(text).item_ids) == ({}, 0)
    ledger.import_data(ITEMS, rows_of(CANARY, 0), "movie")
    ledger.record_lineage(0, {"adapter-a": [CANARY]}, {})
    before = ledger.search(text)
    people = {"changes.user_id": 1, "exposures.user_id": 1, "interactions.user_id": 1}
    assert before.found == {CANARY: people, "Title 3 (1999)": {"items.title": 1}, "i0": {}}[text]
    assert before.item_ids == {CANARY: 0, "Title 3 (1999)": 0, "i0": 2}[text]
    assert before.values > len(ITEMS)
    ledger.forget(CANARY, None, None)
    after = ledger.search(text)
    assert after.found == {CANARY: {}, "Title 3 (1999)": {"items.title": 1}, "i0": {}}[text]
    assert after.item_ids == {CANARY: 0, "Title 3 (1999)": 0, "i0": 1}[text]


def test_an_id_is_found_as_a_whole_value_and_not_inside_longer_ones(ledger: Ledger) -> None:
    items = [Item("5", "Film 5"), Item("55", "55"), Item("movie-1", "movie-1")]
    everyone = ("15", "5x", "user-12", "user-123")
    ledger.import_data(items, [Interaction(user, "55", True, 5) for user in everyone], "movie")
    ledger.record_lineage(0, {"5" * 64: ["15"]}, {}, {"5" * 64: "5"})
    five = ledger.search("5")
    assert (five.found, five.item_ids) == ({}, 1)
    assert five.longer >= 4  # two people in two tables
    assert ledger.search("55").found == {}  # an item without a title, and somebody's rows name it
    assert ledger.search("movie-1").found == {"items.title": 1}  # nobody's rows do
    assert ledger.search("user-12").found == {"changes.user_id": 1, "interactions.user_id": 1}
    ledger.forget("user-12", None, None)
    gone = ledger.search("user-12")
    assert (gone.found, gone.longer) == ({}, 2)


def test_a_text_inside_a_document_of_the_database_is_found_between_delimiters(ledger: Ledger) -> None:
    request = ledger.forget("nobody", None, None).request
    ledger.complete(request.request_id, '{"who":"kanarek-7","also":"kanarek-77"}', 5.0)
    assert ledger.search("kanarek-7").found == {"forget_requests.receipt": 1}
    assert ledger.search("kanarek-777").found == {}
    assert ledger.search("anarek-7").longer == 1


# What must not come back


def test_a_tombstone_of_an_item_does_not_tell_which_item_it_was(filled: Ledger) -> None:
    request = filled.forget("ann", ["i1", "i2"], None).request
    stones = filled.tombstones(request.request_id)
    assert len({stone.scope_hash for stone in stones}) == 2
    assert not any(item.item_id in repr(stones) for item in ITEMS)
    assert {stone.fence for stone in stones} == {request.fence}
    assert filled.tombstones_over(rows_of("ann", 0, 2)) == [s for s in stones if s.scope_hash == _grave(filled, "i2")]
    counts = filled.import_data([], rows_of("ann", 0, 1, 2, 3), None)
    assert (counts.tombstoned, counts.new_interactions) == (2, 1)


def _grave(ledger: Ledger, item_id: str) -> str:
    [stone] = ledger.tombstones_over([Interaction("ann", item_id, True, 0)])
    return stone.scope_hash


def test_an_old_ledger_learns_the_later_tombstones_and_finds_whom_it_should_not_hold(url: str, tmp_path: Path) -> None:
    with Ledger(f"sqlite:///{tmp_path}/newer.db", SECRET) as newer:
        newer.import_data(ITEMS, [*rows_of("ann", 0, 1), *rows_of("bob", 2, 3), *rows_of("cid", 4)], "movie")
        newer.forget("ann", None, None)
        newer.forget("bob", ["i3", "never rated"], None)
        known = newer.tombstones()
        assert newer.resurrected_users() == {}
    with Ledger(url, SECRET) as restored:
        restored.import_data(ITEMS, [*rows_of("ann", 0, 1), *rows_of("bob", 2, 3), *rows_of("cid", 4)], "movie")
        assert restored.resurrected_users() == {}
        assert [restored.restore_tombstones(known)[0] for _ in range(2)] == [3, 0]
        assert restored.resurrected_users() == {"ann": None, "bob": ["i3"]}
        assert restored.mask().fence == 2
        assert sorted(restored.tombstones(), key=repr) == sorted(known, key=repr)


def test_the_fence_never_falls_because_of_old_tombstones(filled: Ledger) -> None:
    for user in ("ann", "bob"):
        filled.forget(user, None, None)
    filled.restore_tombstones([Tombstone("s", "", "r", 1)])
    assert filled.mask().fence == 2


def test_a_deletion_counts_the_samples_that_the_masked_adapters_had_seen(ledger: Ledger) -> None:
    ledger.import_data(ITEMS, rows_of("ann", 0, 1), "movie")
    ledger.record_lineage(0, {"a": ["ann", "ann", "bob"], "b": ["ann"]}, {"row": "ann"})
    request = ledger.forget("ann", None, None).request
    assert (request.masked_samples, request.masked_rows) == (3, 1)
    assert ledger.masked_by(request.request_id) == MaskedArtifacts(
        frozenset({"a", "b"}), frozenset({"row"}), frozenset()
    )
    ledger.complete(request.request_id, "{}", DONE)
    assert ledger.masked_by(request.request_id) == MaskedArtifacts(frozenset(), frozenset(), frozenset())


def test_what_a_build_under_way_has_seen_of_somebody_is_added_to_their_request(ledger: Ledger) -> None:
    ledger.import_data(ITEMS, [*rows_of("ann", 0, 1), *rows_of("bob", 1)], "movie")
    ledger.record_lineage(0, {"a": ["ann"]}, {"row": "ann"}, {"a": "00"})
    request = ledger.forget("ann", None, None).request
    for _ in range(2):  # recorded again, it is not counted again
        ledger.record_lineage(0, {"b": ["ann", "ann", "bob"], "a": ["ann"]}, {"row": "ann", "new": "ann"}, {"b": "0"})
    late = ledger.request(request.request_id)
    assert (late.affected_shards, late.shard_names, late.masked_samples, late.masked_rows) == (
        ("a", "b"),
        ("00", "0"),
        3,
        2,
    )
    ledger.complete(request.request_id, "{}", DONE)
    signed = ledger.request(request.request_id)
    ledger.record_lineage(0, {"c": ["ann"]}, {})
    assert ledger.request(request.request_id) == signed
    assert "c" in ledger.mask().adapters


def test_recorded_places_of_units_that_are_no_more_are_dropped(ledger: Ledger) -> None:
    ledger.import_data(ITEMS, rows_of("ann", 0, 1), "movie")
    for name in ("p", "q"):
        ledger.record_partition(name, [("u1", "ann", "0"), ("u2", "ann", "1")])
    ledger.prune_partition("p", {"u2", "u3"})
    assert ledger.recorded_partition("p") == {"u2": "1"}
    assert ledger.recorded_partition("q") == {"u1": "0", "u2": "1"}


# Opening


def test_tables_of_no_known_version_are_refused_with_what_to_do(sqlite_file: Path) -> None:
    sqlite_file.parent.mkdir()
    with closing(sqlite3.connect(sqlite_file)) as connection:
        connection.execute("CREATE TABLE items (item_id TEXT PRIMARY KEY, colour TEXT)")
    with pytest.raises(InvalidSetting, match=r"early version of Lethe .*items.* open it with that version"):
        Ledger(f"sqlite:///{sqlite_file}", SECRET)


def test_a_ledger_is_the_same_after_it_is_opened_again(url: str) -> None:
    with Ledger(url, SECRET) as ledger:
        ledger.import_data(ITEMS, rows_of("ann", 0), "movie")
        ledger.forget("ann", None, None)
        before = ledger.view(), ledger.mask(), ledger.pending()
    with Ledger(url, SECRET) as ledger:
        assert (ledger.view(), ledger.mask(), ledger.pending()) == before


def test_two_ledgers_on_one_database_see_each_other(url: str) -> None:
    with Ledger(url, SECRET) as one, Ledger(url, SECRET) as two:
        one.import_data(ITEMS, rows_of("ann", 0), "movie")
        one.record_lineage(0, {"a": ["ann"]}, {})
        assert two.mask().adapters == frozenset()
        one.forget("ann", None, None)
        assert two.mask().adapters == {"a"}


def test_a_new_database_may_be_opened_by_many_at_once(url: str) -> None:
    gate = threading.Barrier(6)

    def open_it(_: int) -> int:
        gate.wait()
        with Ledger(url, SECRET) as ledger:
            return ledger.mask().fence

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(open_it, range(6))) == [0] * 6


@pytest.mark.parametrize(
    "bad", ["", "mysql://host/db", "no url", "sqlite://", "sqlite:///:memory:", "postgresql://h:x/d"]
)
def test_a_url_that_cannot_be_a_ledger_is_refused(bad: str) -> None:
    with pytest.raises(InvalidSetting):
        Ledger(bad, SECRET)


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting):
        Ledger(f"sqlite:///{tmp_path}/ledger.db", b"")


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(LedgerUnavailable):
        Ledger(f"sqlite:///{tmp_path}/ledger.db", SECRET)


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(LedgerUnavailable):
        Ledger("postgresql://nobody@127.0.0.1:1/nothing", SECRET)

"""Restriction, objection and legal hold in the ledger: what is masked, what is kept, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidInput, UnknownUser
from service.ledger import Event, EventOutcome, KeyedHashes, Ledger, rekey
from service.records import (
    BuildConfig,
    ById,
    Correction,
    Interaction,
    Item,
    LedgerView,
    ModelIdentity,
    Published,
    Requester,
)

SECRET = b"a secret of the tests"
ITEMS = [Item(f"i{n}", f"Title {n} (1999)", 1999, ("Drama", "War")) for n in range(6)]
ANN = [Interaction("ann", f"i{n}", n != 1, 1_000 + n, float(n)) for n in range(3)]
LATER = Interaction("ann", "i3", True, 5_000)
OTHERS = [Interaction("bob", "i1", True, 1_001), Interaction("cid", "i2", False, 1_002)]
STRANGER = Requester("key-1", "key-1", may_know=False)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.thorough)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """Ann, Bob and Cid count, were seen and published; Ann has done something since."""
    if request.param == "sqlite":
        with Ledger(f"sqlite:///{tmp_path}/ledger.db", SECRET) as opened:
            yield filled(opened)
        return
    with request.getfixturevalue("new_database")() as url, Ledger(url, SECRET) as opened:
        yield filled(opened)


@pytest.fixture
def light(tmp_path: Path) -> Iterator[Ledger]:
    """On SQLite, for what does not depend on the database."""
    with Ledger(f"sqlite:///{tmp_path}/ledger.db", SECRET) as opened:
        yield filled(opened)


def filled(ledger: Ledger) -> Ledger:
    ledger.import_data(ITEMS, [*ANN, *OTHERS], "movie")
    ledger.advance_horizon()
    publish(ledger, "g-1")
    ledger.take_events([Event(LATER)])
    return ledger


def publish(ledger: Ledger, generation: str) -> None:
    """As a build does that reads the ledger now: one adapter and one memory of all, and Bob validates."""
    view = ledger.view()
    adapter = [row.user_id for rows in view.interactions.values() for row in rows]
    name = f"{generation}-ad"
    counts = {user: len(rows) for user, rows in view.interactions.items()}
    ledger.record_lineage(view.fence, {name: adapter}, {"row-1": "bob"}, {name: "0"}, {f"{generation}-me": counts})
    read_at = (view.horizon, view.catalog_revision)
    published = Published(generation, view.fence, BuildConfig(), ModelIdentity("f", "float32"), {}, *read_at)
    assert ledger.publish(published, [name], ["row-1"], [f"{generation}-me"])
    ledger.drop_lineage_except([name], ["row-1"], generation, [f"{generation}-me"])


def counted(view: LedgerView) -> dict[str, list[str]]:
    return {user: [row.item_id for row in rows] for user, rows in view.interactions.items()}


def everything(ledger: Ledger) -> dict[str, Any]:
    """What a build and a caller could see."""
    view = ledger.view()
    return {
        "view": replace(view, fence=0, catalog_revision=0),
        "history": ledger.history("ann", 9),
        "rows": ledger.export("ann").rows,
        "beyond": ledger.beyond_horizon(),
    }


def completed(ledger: Ledger, request_id: str) -> None:
    ledger.start([request_id])
    ledger.complete(request_id, "{}", ledger.now())


# Restriction


def test_a_restriction_masks_at_once_and_leaves_the_person_out_of_everything_but_their_export(ledger: Ledger) -> None:
    status = ledger.restraints.restrict("ann", "objection")
    assert (status.rows, status.built, status.restraint.ground) == (4, False, "objection")
    mask = ledger.mask()
    assert (set(mask.adapters), set(mask.rows), set(mask.memories)) == ({"g-1-ad"}, set(), {"g-1-me"})
    assert counted(ledger.view()) == {"bob": ["i1"], "cid": ["i2"]}
    assert (ledger.counts().interactions, ledger.counts().users, ledger.beyond_horizon()) == (2, 2, 0)
    assert ledger.seen("ann") == frozenset()
    with pytest.raises(UnknownUser):
        ledger.history("ann", 9)
    held = ledger.export("ann")
    assert [(row.item_id, row.title, row.rating, row.counted, row.set_aside) for row in held.rows] == [
        *((f"i{n}", f"Title {n} (1999)", float(n), False, "restriction") for n in range(3)),
        ("i3", "Title 3 (1999)", None, False, "restriction"),
    ]
    assert [one.kind for one in held.restraints] == ["restriction"]


def test_when_a_generation_without_the_person_is_published_the_masks_are_lifted(ledger: Ledger) -> None:
    ledger.restraints.restrict("ann", "restriction")
    assert ledger.is_behind()
    publish(ledger, "g-2")
    assert not ledger.is_behind()
    assert ledger.mask().empty
    status = ledger.restraints.status("ann", "restriction")
    assert status is not None
    assert status.built
    assert ledger.export("ann").seen_by == ()


@pytest.mark.parametrize("built", [False, True])
def test_lifted_everything_is_as_before(ledger: Ledger, built: bool) -> None:
    before = everything(ledger)
    ledger.restraints.restrict("ann", "restriction")
    if built:
        publish(ledger, "g-2")
    lifted = ledger.restraints.lift_restriction("ann")
    assert (lifted.restraint is not None, lifted.rows) == (True, 4)
    assert everything(ledger) == before
    assert ledger.mask().empty
    assert ledger.restraints.status("ann", "restriction") is None
    assert ledger.is_behind()  # what is served may be without the person, or be on its way
    publish(ledger, "g-3")
    assert not ledger.is_behind()
    assert ledger.restraints.lift_restriction("ann").restraint is None
    assert ledger.forget("ann", None, None).request.affected_shards == ("g-3-ad",)


def test_a_horizon_that_has_moved_meanwhile_has_moved_for_the_restricted_too(ledger: Ledger) -> None:
    ledger.restraints.restrict("ann", "restriction")
    ledger.take_events([Event(Interaction("bob", "i4", True, 5_000))])
    assert ledger.advance_horizon() == 1
    ledger.restraints.lift_restriction("ann")
    assert counted(ledger.view())["ann"] == ["i0", "i1", "i2", "i3"]
    assert ledger.beyond_horizon() == 0


def test_restricted_twice_is_restricted_once_and_the_ground_may_change(light: Ledger) -> None:
    first = light.restraints.restrict("ann", "restriction")
    revision = light.mask().revision
    again = light.restraints.restrict(" ann ", "objection")
    assert again.restraint == replace(first.restraint, ground="objection")
    assert light.mask().revision == revision


def test_what_comes_in_of_a_restricted_person_is_refused_at_every_door(ledger: Ledger) -> None:
    ledger.restraints.restrict("ann", "objection")
    ledger.restraints.restrict("nobody", "objection")
    rows = [Interaction(user, "i5", True, 9_000) for user in ("ann", "nobody", "bob")]
    outcomes = [EventOutcome.RESTRICTED, EventOutcome.RESTRICTED, EventOutcome.NEW]
    assert ledger.take_events([Event(row, "e-1") for row in rows]) == outcomes
    assert ledger.take_events([Event(row, "e-1") for row in rows[:2]], allow_returning=True) == outcomes[:2]
    imported = ledger.import_data([], [*rows, *ANN], None, allow_returning=True)
    assert (imported.restricted, imported.new_interactions) == (5, 0)
    assert ledger.tombstones_over(rows) == []
    assert len(ledger.export("ann").rows) == 4
    ledger.restraints.lift_restriction("nobody")
    assert ledger.take_events([Event(rows[1], "e-1")]) == [EventOutcome.NEW]


def test_a_restriction_of_nobody_changes_nothing_that_is_served(light: Ledger) -> None:
    before = light.mask()
    assert light.restraints.restrict("nobody", "objection").rows == 0
    assert light.mask() == before
    assert not light.is_behind()
    assert light.restraints.lift_restriction("nobody").rows == 0
    assert light.mask() == before


def test_a_deletion_of_a_restricted_person_erases_all_and_the_restriction_stands(ledger: Ledger) -> None:
    ledger.restraints.restrict("ann", "restriction")
    request = ledger.forget("ann", None, None).request
    assert (request.state, request.erased_interactions, request.held) == ("accepted", 4, True)
    assert request.affected_shards == ("g-1-ad",)
    assert ledger.export("ann").rows == ()
    assert ledger.search("ann").found == {}
    assert ledger.restraints.lift_restriction("ann").rows == 0
    assert ledger.take_events([Event(LATER)]) == [EventOutcome.FORGOTTEN]


def test_single_interactions_of_a_restricted_person_can_be_forgotten_and_rectified(ledger: Ledger) -> None:
    ledger.restraints.restrict("ann", "restriction")
    assert ledger.preview("ann", [ById("i0"), ById("i5")]).interactions == 1
    assert ledger.forget("ann", [ById("i0")], None).request.erased_interactions == 1
    assert ledger.rectify("ann", Correction("i1", True, 5.0), None).request.state == "accepted"
    assert ledger.seen("ann") == frozenset()
    told = {row.item_id: (row.liked, row.rating, row.set_aside) for row in ledger.export("ann").rows}
    assert told.keys() == {"i1", "i2", "i3"}
    assert told["i1"] == (True, 5.0, "restriction")
    ledger.restraints.lift_restriction("ann")
    assert counted(ledger.view())["ann"] == ["i2"]
    assert ledger.seen("ann") == {"i1", "i2", "i3"}


def test_an_item_that_only_a_restricted_person_names_goes_and_comes_back_with_them(ledger: Ledger) -> None:
    named = [Interaction("ann", "only ann's", True, 6_000), Interaction("cid", "theirs", True, 6_000)]
    ledger.import_data([], [*named, Interaction("ann", "theirs", True, 6_001)], None, create_items=True)
    ledger.change_item("only ann's", lambda entry: replace(entry, hidden=True))
    before, entries = everything(ledger), ledger.catalog_entries()[1]
    ledger.restraints.restrict("ann", "restriction")
    assert "only ann's" not in ledger.item_ids()
    assert "theirs" in ledger.item_ids()
    ledger.forget("cid", None, None)
    assert "theirs" not in ledger.item_ids()
    assert ledger.unnamed_items() == 0
    ledger.restraints.lift_restriction("ann")
    after = everything(ledger)
    assert (after["history"], after["rows"]) == (before["history"], before["rows"])
    assert ledger.catalog_entries()[1] == entries
    assert ledger.view().items == before["view"].items  # both are still beyond the horizon
    ledger.restraints.restrict("ann", "restriction")
    ledger.forget("ann", None, None)
    assert ledger.item_ids() == {item.item_id for item in ITEMS}
    assert ledger.search("only ann's").found == {}


def test_an_item_that_is_stated_meanwhile_is_known_to_samples_as_it_was(ledger: Ledger) -> None:
    ledger.import_data([], [Interaction("ann", "only ann's", True, 6_000)], None, create_items=True)
    ledger.advance_horizon()
    before = ledger.view()
    ledger.restraints.restrict("ann", "restriction")
    assert "only ann's" not in {item.item_id for item in ledger.view().items}
    ledger.import_data([Item("only ann's", "A title (2001)")], [Interaction("bob", "only ann's", True, 7_000)], None)
    assert "only ann's" not in {item.item_id for item in ledger.view().items}
    ledger.restraints.lift_restriction("ann")
    after = ledger.view()
    assert (after.items, after.interactions) == (before.items, before.interactions)
    assert ledger.items_by_id(["only ann's"])["only ann's"].title == "A title (2001)"


def test_who_is_restricted_while_a_build_reads_is_masked_in_what_it_makes(ledger: Ledger) -> None:
    fence = ledger.view().fence
    ledger.restraints.restrict("ann", "restriction")
    ledger.record_lineage(fence, {"late": ["ann", "bob"]}, {}, {"late": "0"})
    assert "late" in ledger.mask().adapters
    assert ledger.forgotten_since(fence, ["ann", "bob"])[1] == {"ann"}
    ledger.restraints.lift_restriction("ann")
    assert ledger.mask().empty


# Hold


def test_a_deletion_of_a_held_person_is_in_force_and_keeps_the_rows_until_the_hold_is_released(ledger: Ledger) -> None:
    ledger.restraints.hold("ann", "court order")
    request = ledger.forget("ann", None, None).request
    assert (request.state, request.erased_interactions, request.held) == ("held", 4, True)
    assert ledger.mask().adapters == {"g-1-ad"}
    assert counted(ledger.view()) == {"bob": ["i1"], "cid": ["i2"]}
    assert [row.set_aside for row in ledger.export("ann").rows] == ["hold"] * 4
    assert (ledger.pending(), ledger.is_behind(), ledger.overdue(-1)) == ([], True, 0)
    publish(ledger, "g-2")
    assert ledger.mask().empty  # or the item model would be out as long as the hold stands
    assert set(ledger.masked_by(request.request_id).memories) == {"g-1-me"}
    assert not ledger.is_behind()
    assert ledger.resurrected_users() == {}
    assert ledger.take_events([Event(LATER)]) == [EventOutcome.FORGOTTEN]
    released = ledger.restraints.release_hold("ann")
    assert released.requests == (request.request_id,)
    [pending] = ledger.pending()
    assert (pending.state, pending.erased_interactions) == ("accepted", 4)
    assert pending.released_at is not None
    assert ledger.oldest_pending_age() < 60
    assert ledger.export("ann").rows == ()
    assert ledger.search("ann").found == {}
    completed(ledger, request.request_id)
    assert set(ledger.masked_by(request.request_id).memories) == set()


def test_asked_again_a_held_deletion_is_the_same_and_a_stranger_gets_one_that_waits_with_it(light: Ledger) -> None:
    light.restraints.hold("ann", "court order")
    first = light.forget("ann", None, None).request
    assert light.forget("ann", None, None).request.request_id == first.request_id
    other = light.forget("ann", None, None, by=STRANGER).request
    assert (other.state, other.request_id != first.request_id) == ("held", True)
    released = light.restraints.release_hold("ann")
    assert set(released.requests) == {first.request_id, other.request_id}
    assert {one.state for one in light.pending()} == {"accepted"}


def test_a_hold_over_nobody_lets_a_deletion_be_completed_at_once(light: Ledger) -> None:
    light.restraints.hold("nobody", "court order")
    assert light.forget("nobody", None, None).request.state == "completed"


def test_a_hold_that_comes_after_a_deletion_holds_nothing_of_it(light: Ledger) -> None:
    request = light.forget("ann", None, None).request
    assert light.restraints.hold("ann", "court order").rows == 0
    assert light.request(request.request_id).state == "accepted"
    assert light.forget("ann", None, None, by=STRANGER).request.state == "accepted"


def test_single_interactions_and_corrections_of_a_held_person_keep_what_was(ledger: Ledger) -> None:
    ledger.restraints.hold("ann", "court order")
    one = ledger.forget("ann", [ById("i0")], None).request
    other = ledger.rectify("ann", Correction("i1", True), None).request
    assert (one.state, other.state) == ("held", "held")
    told = [(row.item_id, row.liked, row.set_aside) for row in ledger.export("ann").rows]
    assert sorted(told, key=str) == [
        ("i0", True, "hold"),
        ("i1", False, "hold"),
        ("i1", True, None),
        ("i2", True, None),
        ("i3", True, None),
    ]
    publish(ledger, "g-2")
    assert ledger.mask().empty
    assert set(ledger.restraints.release_hold("ann").requests) == {one.request_id, other.request_id}
    assert ledger.seen("ann") == {"i1", "i2", "i3"}
    assert all(row.set_aside is None for row in ledger.export("ann").rows)


def test_held_and_restricted_a_deletion_takes_the_rows_from_the_restriction(light: Ledger) -> None:
    light.restraints.restrict("ann", "restriction")
    light.restraints.hold("ann", "court order")
    assert light.forget("ann", None, None).request.state == "held"
    status, hold = light.restraints.status("ann", "restriction"), light.restraints.status("ann", "hold")
    assert status is not None
    assert hold is not None
    assert (status.rows, hold.rows) == (0, 4)
    assert light.restraints.lift_restriction("ann").rows == 0
    assert light.seen("ann") == frozenset()
    light.restraints.release_hold("ann")
    assert light.search("ann").found == {}


def test_a_hold_that_is_released_before_any_deletion_has_changed_nothing(light: Ledger) -> None:
    before = light.mask(), light.export("ann").rows
    light.restraints.hold("ann", "court order")
    assert light.restraints.release_hold("ann").requests == ()
    assert light.restraints.release_hold("ann").restraint is None
    assert (light.mask(), light.export("ann").rows) == before
    assert light.search("court order").found == {}


@pytest.mark.parametrize("ground", ["", "x" * 201, "a\0b"])
def test_a_hold_needs_a_ground_that_can_be_stored(light: Ledger, ground: str) -> None:
    with pytest.raises(InvalidInput, match="a hold needs a ground"):
        light.restraints.hold("ann", ground)


# What stands beside them


def test_a_search_finds_what_is_set_aside(light: Ledger) -> None:
    rows = [Interaction("a distinctive reader", item, True, 7_000) for item in ("i4", "a distinctive item")]
    light.import_data([], rows, None, create_items=True)
    light.restraints.restrict("a distinctive reader", "restriction")
    assert light.search("a distinctive reader").found == {"set_aside.user_id": 2}
    assert light.search("a distinctive item").found == {"set_aside.item": 1, "set_aside.former_item": 1}
    assert light.search("a distinctive item").item_ids == 1


def test_the_trail_says_who_did_what_and_nothing_of_a_person_who_is_gone(light: Ledger) -> None:
    light.restraints.restrict("ann", "restriction", Requester("key-1", "key-1", "192.0.2.7"))
    light.restraints.lift_restriction("ann")
    light.restraints.hold("ann", "court order")
    light.restraints.release_hold("ann")
    actions = ["restrict", "restrict.lift", "hold", "hold.release"]
    assert [entry.event.action for entry in light.trail.entries(4)] == actions
    request = light.forget("ann", None, None).request
    completed(light, request.request_id)
    assert {entry.event.subject for entry in light.trail.entries(9) if entry.event.action in actions} == {None}
    assert light.trail.check().faults == ()


def test_restraints_are_known_under_a_new_secret_of_people_who_are_held_and_of_others(tmp_path: Path) -> None:
    at = f"sqlite:///{tmp_path}/ledger.db"
    with Ledger(at, SECRET) as old:
        filled(old)
        old.restraints.restrict("ann", "objection")
        old.restraints.restrict("nobody", "objection")
        old.restraints.hold("bob", "court order")
        assert old.forget("bob", None, None).request.state == "held"
    rekey(at, b"another secret", [SECRET])
    with Ledger(at, b"another secret", retired=[SECRET]) as new:
        subjects = {one.subject for one in new.restraints.standing()}
        hashes = KeyedHashes(b"another secret")
        assert {hashes.subject("ann"), hashes.subject("bob"), KeyedHashes(SECRET).subject("nobody")} == subjects
        rows = [Interaction(user, "i5", True, 9_000) for user in ("ann", "nobody")]
        assert new.take_events([Event(row) for row in rows]) == [EventOutcome.RESTRICTED] * 2
        assert len(new.restraints.release_hold("bob").requests) == 1
        assert new.restraints.lift_restriction("nobody").restraint is not None

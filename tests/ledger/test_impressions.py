"""Impressions in the ledger: who is recorded, what is attributed, and that they go with their person, on either database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.ledger import Event, HeldImpression, Ledger, OnlineQuality, rekey
from service.records import Citation, Correction, Impression, Interaction, Item, Outcome
from tests.ledger.test_outbox import Clock

pytestmark = pytest.mark.thorough

SECRET = b"a secret of the tests"
ITEMS = [Item(f"i{n}", f"Title {n} (1999)") for n in range(6)]
ROWS = [Interaction(user, "i0", True, 1_000) for user in ("ann", "bob")]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    if request.param == "sqlite":
        with Ledger(tmp_path / "ledger.sqlite", SECRET, clock) as ledger:
            yield filled(ledger)
        return
    with request.getfixturevalue("new_database")() as url, Ledger(url, SECRET, clock) as ledger:
        yield filled(ledger)


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """Of Ann and Bob a row each is held."""
    yield from opened(request, tmp_path, clock)


@pytest.fixture(params=["sqlite", "postgres"])
def either(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """On both databases each time."""
    yield from opened(request, tmp_path, clock)


@pytest.fixture
def light(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """On SQLite, for what does not depend on the database."""
    with Ledger(tmp_path / "ledger.sqlite", SECRET, clock) as ledger:
        yield filled(ledger)


def filled(ledger: Ledger) -> Ledger:
    ledger.import_data(ITEMS, ROWS, "movie")
    return ledger


def shown(ledger: Ledger, user: str, name: str, items: tuple[str, ...] = ("i1", "i2"), **changed: Any) -> Impression:
    one = Impression(name, user, items, "g-1", ledger.mask().fence, ledger.now())
    return replace(one, **changed)


def held(ledger: Ledger, user: str) -> dict[str, list[str]]:
    return {one.recommendation_id: [item.item_id for item in one.items] for one in ledger.export(user).impressions}


def erased(ledger: Ledger, user: str) -> set[str]:
    """The columns in which the user still stands."""
    return set(ledger.search(user).found)


def later(clock: Clock) -> None:
    clock.now += 1


# Who is recorded


def test_an_impression_is_held_of_who_is_known_and_of_nobody_else(ledger: Ledger) -> None:
    given = [shown(ledger, "ann", "a-1"), shown(ledger, "stranger", "s-1"), shown(ledger, "bob", "b-1", ("i9",))]
    assert ledger.impressions.record(given) == 1
    assert held(ledger, "ann") == {"a-1": ["i1", "i2"]}
    assert held(ledger, "stranger") == held(ledger, "bob") == {}
    assert ledger.impressions.record(given) == 1  # sent again, nothing is held twice
    assert held(ledger, "ann") == {"a-1": ["i1", "i2"]}


@pytest.mark.parametrize("items", [None, ["i0"], ["i5"]])
def test_an_impression_never_overtakes_a_deletion_that_came_after_it(
    ledger: Ledger, clock: Clock, items: list[str] | None
) -> None:
    """Also when the person comes back before it is written, and when the deletion found nothing and raised no fence."""
    on_its_way = shown(ledger, "ann", "a-1", ("i1", "i5"))
    later(clock)
    ledger.forget("ann", items, None)
    back = Interaction("ann", "i3", True, int(clock.now) + 60)
    ledger.take_events([Event(back)], allow_returning=True)
    assert ledger.impressions.record([on_its_way, shown(ledger, "bob", "b-1")]) == 1
    assert held(ledger, "ann") == {}
    later(clock)
    assert ledger.impressions.record([shown(ledger, "ann", "a-2", ("i1",))]) == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_replicas_that_record_and_forget_at_once_leave_nothing_of_the_forgotten(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    users = [f"reader-{n:02}" for n in range(40)]
    with ExitStack() as stack:
        url: str | Path = tmp_path / "ledger.sqlite"
        if kind == "postgres":
            url = stack.enter_context(request.getfixturevalue("new_database")())
        one, other = (stack.enter_context(Ledger(url, SECRET)) for _ in range(2))
        one.import_data(ITEMS, [Interaction(user, "i0", True, 1_000) for user in users], "movie")
        with ThreadPoolExecutor(4) as threads:

            def recorded(user: str) -> int:
                given = shown(one, user, f"r-{user}")
                return one.impressions.record([given])

            written = [threads.submit(recorded, user) for user in users]
            forgotten = [threads.submit(other.forget, user, None, None) for user in users]
            taken = sum(one.result() for one in written)
            erased_ones = sum(one.result().request.erased_impressions for one in forgotten)
        assert taken == erased_ones
        assert one.resurrected_users() == {}
        assert all(one.export(user).impressions == () for user in users)


def test_of_a_clock_that_was_set_back_the_fence_tells_what_came_first(light: Ledger, clock: Clock) -> None:
    on_its_way = shown(light, "ann", "a-1")
    clock.now -= 3_600
    light.forget("ann", None, None)
    light.take_events([Event(Interaction("ann", "i3", True, int(clock.now) + 60))], allow_returning=True)
    assert light.impressions.record([on_its_way]) == 0


def test_an_item_of_which_somebody_wants_nothing_held_is_left_out(light: Ledger, clock: Clock) -> None:
    light.take_events([Event(Interaction("ann", "i1", True, 1_001))])
    light.forget("ann", ["i1"], None)
    later(clock)
    assert light.impressions.record([shown(light, "ann", "a-1")]) == 1
    assert held(light, "ann") == {"a-1": ["i2"]}
    assert light.resurrected_users() == {}


def test_a_restricted_person_is_not_recorded(light: Ledger) -> None:
    light.restraints.restrict("ann", "objection")
    assert light.impressions.record([shown(light, "ann", "a-1")]) == 0


def test_no_build_and_no_answer_reads_them(light: Ledger) -> None:
    def read() -> tuple[Any, ...]:
        with light.read_transaction() as transaction:
            changed = transaction.changed(None, None), transaction.exposed(), transaction.assignment_columns()
        return light.view(), light.counts(), light.history("ann", 9), light.mask(), changed

    before = read()
    light.impressions.record([shown(light, "ann", "a-1")])
    light.impressions.attribute([Citation("ann", "i1", "a-1", liked=True)])
    assert read() == before


# Attribution


def test_an_event_is_attributed_to_what_its_person_was_shown(ledger: Ledger) -> None:
    ledger.impressions.record([shown(ledger, "ann", "a-1"), shown(ledger, "bob", "b-1")])
    cited = [
        Citation("ann", "i1", "a-1", liked=True),
        Citation("ann", "i2", "a-1", liked=False),
        Citation("ann", "i3", "a-1", liked=True),  # was not in it
        Citation("ann", "i1", "b-1", liked=True),  # somebody else's
        Citation("ann", "i1", "unknown", liked=True),
        Citation("ann", "i1", "\0", liked=True),
    ]
    assert ledger.impressions.attribute(cited) == [True, True, False, False, False, False]
    assert ledger.impressions.attribute([replace(cited[0], liked=False)]) == [True]  # a like stays one
    [one] = ledger.export("ann").impressions
    assert [(item.item_id, item.attributed, item.liked) for item in one.items] == [
        ("i1", True, True),
        ("i2", True, False),
    ]
    [other] = ledger.export("bob").impressions
    assert not any(item.attributed for item in other.items)


def test_what_is_corrected_counts_as_corrected(light: Ledger, clock: Clock) -> None:
    light.impressions.record([shown(light, "ann", "a-1")])
    light.take_events([Event(Interaction("ann", "i1", True, 1_001))])
    light.impressions.attribute([Citation("ann", "i1", "a-1", liked=True)])
    later(clock)
    request = light.rectify("ann", Correction("i1", liked=False), None).request
    assert request.erased_impressions == 0
    [one] = light.export("ann").impressions
    assert [(item.item_id, item.attributed, item.liked) for item in one.items] == [
        ("i1", True, False),
        ("i2", False, False),
    ]
    assert light.resurrected_users() == {}  # the correction's tombstone is over rows


# Figures


def crowd(ledger: Ledger, people: int) -> list[str]:
    users = [f"reader-{n:02}" for n in range(people)]
    ledger.import_data([], [Interaction(user, "i0", True, 1_000) for user in users], None)
    ledger.impressions.record([shown(ledger, user, f"r-{user}", ("i1", "i2")) for user in users])
    return users


def test_figures_are_told_of_groups_of_twenty_and_without_who_is_forgotten(either: Ledger) -> None:
    users = crowd(either, 21)
    either.impressions.record([shown(either, "bob", "other", generation="g-0", shown_at=1.0)])
    either.impressions.attribute([Citation(user, "i1", f"r-{user}", liked=n < 7) for n, user in enumerate(users[:14])])
    small = OnlineQuality("g-0", None, None, None, None)
    assert either.impressions.quality() == [OnlineQuality("g-1", 21, 21, 7 / 21, 14 / 42), small]
    either.forget(users[0], None, None)
    assert either.impressions.quality() == [OnlineQuality("g-1", 20, 20, 6 / 20, 13 / 40), small]
    either.restraints.restrict(users[1], "objection")
    assert either.impressions.quality() == [OnlineQuality("g-1", None, None, None, None), small]
    either.restraints.lift_restriction(users[1])
    assert either.impressions.quality() == [OnlineQuality("g-1", 20, 20, 6 / 20, 13 / 40), small]


# Deletions


def test_a_deletion_erases_them_and_says_how_many(ledger: Ledger) -> None:
    ledger.impressions.record([shown(ledger, "ann", "a-1"), shown(ledger, "ann", "a-2"), shown(ledger, "bob", "b-1")])
    assert ledger.preview("ann", None).impressions == 2
    request = ledger.forget("ann", None, None).request
    assert (request.erased_interactions, request.erased_impressions) == (1, 2)
    assert ledger.request(request.request_id).erased_impressions == 2
    assert (held(ledger, "ann"), held(ledger, "bob")) == ({}, {"b-1": ["i1", "i2"]})
    assert ledger.resurrected_users() == {}


def test_who_is_held_in_impressions_alone_is_erased_too(light: Ledger, clock: Clock) -> None:
    light.impressions.record([shown(light, "ann", "a-1")])
    later(clock)
    assert light.forget("ann", ["i0"], None).request.state == "accepted"
    assert light.preview("ann", None).outcome is Outcome.ERASED
    request = light.forget("ann", None, None).request
    assert (request.state, request.held, request.erased_interactions, request.erased_impressions) == (
        *("accepted", True),
        *(0, 1),
    )
    assert light.export("ann").impressions == ()


def test_of_single_items_these_are_taken_out_of_what_was_shown(ledger: Ledger) -> None:
    """The rest of an impression says nothing of the item; where nothing is left of it, it goes as a whole."""
    ledger.record_lineage(0, {"ad": ["ann"]}, {})
    ledger.impressions.record([shown(ledger, "ann", "a-1"), shown(ledger, "ann", "a-2", ("i1",))])
    request = ledger.forget("ann", ["i1"], None).request
    assert (request.state, request.found, request.erased_interactions) == ("accepted", Outcome.ERASED, 0)
    assert request.erased_impressions == 2
    assert request.items is not None
    assert request.items.erased == 1
    assert ledger.mask().empty  # nothing that was built has seen it
    assert held(ledger, "ann") == {"a-1": ["i2"]}


def test_a_search_finds_a_person_in_them_and_not_after_a_deletion(light: Ledger) -> None:
    user, name = "a distinctive reader", "a distinctive answer"
    light.import_data([], [Interaction(user, "i0", True, 1_000)], None)
    light.impressions.record([shown(light, user, name)])
    assert {"impressions.user_id", "shown_items.user_id"} <= erased(light, user)
    assert erased(light, name) == {"impressions.recommendation_id", "shown_items.recommendation_id"}
    light.forget(user, None, None)
    assert erased(light, user) == erased(light, name) == set()


def test_an_item_that_goes_with_its_last_row_is_in_nobodys_impressions_any_more(light: Ledger) -> None:
    """It was made because a row named it, so its id is something of who had named it."""
    light.import_data([], [Interaction("bob", "a distinctive item", True, 1)], None, create_items=True)
    light.impressions.record([shown(light, "ann", "a-1", ("a distinctive item",)), shown(light, "ann", "a-2")])
    assert light.search("a distinctive item").item_ids == 3
    light.forget("bob", None, None)
    assert light.search("a distinctive item").item_ids == 0
    assert held(light, "ann") == {"a-2": ["i1", "i2"]}
    assert "a-1" not in erased(light, "a-1")


def test_a_restored_ledger_loses_them_again(tmp_path: Path, clock: Clock) -> None:
    """Both the person who was forgotten, and the item that was taken out, though no row is left of either."""
    with Ledger(tmp_path / "new", SECRET, clock) as new, Ledger(tmp_path / "old", SECRET, clock) as old:
        for one in (filled(new), filled(old)):
            one.impressions.record([shown(one, "ann", "a-1"), shown(one, "bob", "b-1")])
            later(clock)
            one.forget("ann", ["i0"], None)
        for user, items in (("ann", None), ("bob", ["i1"])):
            new.forget(user, items, None)
        old.restore_tombstones(new.tombstones())
        assert old.resurrected_users() == {"ann": None, "bob": ["i1"]}
        old.forget_again("ann", None)
        old.forget_again("bob", ["i1"])
        assert old.resurrected_users() == {}
        assert (held(old, "ann"), held(old, "bob")) == ({}, {"b-1": ["i2"]})


# Restraints


def test_restricted_they_are_kept_and_used_for_nothing(ledger: Ledger, clock: Clock) -> None:
    ledger.impressions.record([shown(ledger, "ann", "a-1")])
    ledger.restraints.restrict("ann", "objection")
    [one] = ledger.export("ann").impressions
    assert {item.set_aside for item in one.items} == {"restriction"}
    assert ledger.impressions.attribute([Citation("ann", "i1", "a-1", liked=True)]) == [False]
    later(clock)
    assert ledger.impressions.prune(0) == 0  # it is kept, whatever its days
    ledger.restraints.lift_restriction("ann")
    assert ledger.impressions.attribute([Citation("ann", "i1", "a-1", liked=True)]) == [True]
    ledger.restraints.restrict("ann", "objection")
    assert ledger.forget("ann", None, None).request.erased_impressions == 1
    assert ledger.export("ann").impressions == ()


@pytest.mark.parametrize("items", [None, ["i1"]])
def test_what_a_hold_keeps_from_a_deletion_is_erased_at_its_release(
    ledger: Ledger, clock: Clock, items: list[str] | None
) -> None:
    ledger.impressions.record([shown(ledger, "ann", "a-1")])
    ledger.restraints.hold("ann", "court order")
    request = ledger.forget("ann", items, None).request
    assert request.state == "held"
    assert {item.set_aside for item in seen_items(ledger) if item.item_id == "i1"} == {"hold"}
    assert ledger.resurrected_users() == {}
    clock.now += 30 * 86_400
    assert ledger.impressions.prune(1) == 0  # nothing of them is erased before
    ledger.restraints.release_hold("ann")
    assert held(ledger, "ann") == ({} if items is None else {"a-1": ["i2"]})


def seen_items(ledger: Ledger) -> list[Any]:
    return [item for one in ledger.export("ann").impressions for item in one.items]


def test_a_restriction_that_ended_elsewhere_puts_back_who_is_known_by_impressions_alone(
    light: Ledger, clock: Clock
) -> None:
    light.impressions.record([shown(light, "ann", "a-1")])
    later(clock)
    light.forget("ann", ["i0"], None)
    restriction = light.restraints.restrict("ann", "objection").restraint
    light.restraints.restore([], {restriction.restraint_id})
    assert {item.set_aside for item in seen_items(light)} == {None}


# Time


def test_after_their_days_they_are_removed(ledger: Ledger, clock: Clock) -> None:
    ledger.impressions.record([shown(ledger, "ann", "a-1")])
    clock.now += 2 * 86_400
    ledger.impressions.record([shown(ledger, "ann", "a-2")])
    assert ledger.impressions.prune(1) == 1
    assert held(ledger, "ann") == {"a-2": ["i1", "i2"]}
    clock.now += 1
    assert ledger.impressions.prune(0) == 1  # switched off, nothing is kept
    assert ledger.export("ann").impressions == ()
    assert erased(ledger, "a-1") == erased(ledger, "a-2") == set()


def test_what_is_exported_says_when_and_by_what(light: Ledger, clock: Clock) -> None:
    light.impressions.record([shown(light, "ann", "a-1", ("i1",))])
    [one] = light.export("ann").impressions
    assert replace(one, items=()) == HeldImpression("a-1", "g-1", clock.now, ())


def test_a_rotated_secret_recognizes_who_is_held_in_impressions_alone(tmp_path: Path, clock: Clock) -> None:
    new = b"a new secret of the tests"
    with Ledger(tmp_path / "ledger.sqlite", SECRET, clock) as before:
        filled(before).impressions.record([shown(before, "ann", "a-1")])
        later(clock)
        before.forget("ann", ["i0"], None)
    assert len(rekey(tmp_path / "ledger.sqlite", new, [SECRET]).moved) == 1
    with Ledger(tmp_path / "ledger.sqlite", new, clock, retired=[SECRET]) as after:
        assert [stone.subject for stone in after.tombstones()] == [after.subject("ann")]

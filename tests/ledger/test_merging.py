"""Two ids that are one person: what is held under the one is held under the other, and the one is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import IdempotencyConflict, InvalidInput, MergeRefused, UnknownUser
from service.ledger import Event, EventOutcome, Ledger
from service.records import Citation, Correction, Impression, Interaction, Item, Outcome, Restraint, RestraintKind
from tests.ledger.test_outbox import Clock

SECRET = b"a secret of the tests"
ITEMS = [Item(f"i{n}", f"Title {n} (1999)") for n in range(9)]
GUEST, ACCOUNT = "a distinctive guest", "the account"


def row(user: str, item: str, time: int, liked: bool = True) -> Interaction:
    return Interaction(user, item, liked, time)


# (time of the guest's row, of the account's) -> which stays; each before and beyond the horizon.
COUNTED = [row(GUEST, "i0", 10), row(GUEST, "i1", 30), row(ACCOUNT, "i1", 20, False), row(ACCOUNT, "i2", 5)]
COUNTED += [row(GUEST, "i3", 90), row(ACCOUNT, "i3", 10, False), row("bob", "i0", 1)]
ARRIVED = [row(GUEST, "i4", 60), row(GUEST, "i5", 60, False), row(ACCOUNT, "i5", 70), row(ACCOUNT, "i3", 50, False)]


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


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.thorough)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
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
    ledger.import_data(ITEMS, COUNTED, "movie")
    ledger.advance_horizon()
    ledger.record_lineage(0, {"ad-guest": [GUEST], "ad-account": [ACCOUNT]}, {"row": GUEST}, {}, {"me": {GUEST: 3}})
    ledger.take_events([Event(one) for one in ARRIVED])
    return ledger


def counted(ledger: Ledger) -> dict[str, list[Interaction]]:
    return {user: list(rows) for user, rows in ledger.view().interactions.items()}


def as_the_accounts(rows: list[Interaction]) -> list[Interaction]:
    return [replace(one, user_id=ACCOUNT) if one.user_id == GUEST else one for one in rows]


def test_rows_are_those_of_a_ledger_in_which_they_were_the_others_from_the_start(
    either: Ledger, tmp_path: Path, clock: Clock
) -> None:
    request = either.merge(GUEST, ACCOUNT, None).request
    assert (request.state, request.found, request.held, request.scope) == ("accepted", Outcome.MERGED, True, "user")
    assert (request.erased_interactions, request.affected_shards) == (5, ("ad-guest",))
    with Ledger(tmp_path / "clean", SECRET, clock) as clean:
        clean.import_data(ITEMS, as_the_accounts(COUNTED), "movie")
        clean.advance_horizon()
        clean.take_events([Event(one) for one in as_the_accounts(ARRIVED)])
        assert counted(either) == counted(clean)
        assert either.history(ACCOUNT, 99) == clean.history(ACCOUNT, 99)
        assert either.beyond_horizon() == clean.beyond_horizon() == 2
        for one in (either, clean):
            one.advance_horizon()
        assert counted(either) == counted(clean)
    assert either.search(GUEST).found == {}


@pytest.mark.thorough
def test_whose_ids_are_merged_during_a_full_build_wait_for_the_one_after_it(either: Ledger) -> None:
    before = counted(either)
    either.begin_full_build()
    either.merge(GUEST, ACCOUNT, None)
    with either.read_transaction_when_due() as transaction:
        assert transaction.view().interactions == either.view().interactions
    assert either.beyond_horizon() == 2
    assert before.keys() - counted(either).keys() == {GUEST}
    assert either.search(GUEST).found == {}


def test_what_has_seen_the_one_is_masked_and_the_other_is_read_again(ledger: Ledger) -> None:
    fence = ledger.mask().fence
    ledger.merge(GUEST, ACCOUNT, None)
    mask = ledger.mask()
    assert (set(mask.adapters), set(mask.rows), set(mask.memories)) == ({"ad-guest"}, {"row"}, {"me"})
    assert mask.fence == fence + 1
    with ledger.read_transaction() as transaction:
        assert ACCOUNT in transaction.changed(None, None)
        assert GUEST not in transaction.changed(None, None)


def test_what_comes_in_of_the_one_is_refused_and_a_restored_ledger_lets_it_go(
    ledger: Ledger, tmp_path: Path, clock: Clock
) -> None:
    ledger.merge(GUEST, ACCOUNT, None)
    assert ledger.take_events([Event(row(GUEST, "i8", 2_000_000_000))]) == [EventOutcome.FORGOTTEN]
    assert ledger.resurrected_users() == {}
    with Ledger(tmp_path / "old", SECRET, clock) as old:
        filled(old).restore_tombstones(ledger.tombstones())
        assert old.resurrected_users() == {GUEST: None}


def test_whoever_asks_for_the_deletion_of_the_one_is_told_that_the_other_has_it(ledger: Ledger, clock: Clock) -> None:
    merge = ledger.merge(GUEST, ACCOUNT, None).request
    assert ledger.forget(GUEST, None, None).request.request_id == merge.request_id  # while it is owed
    ledger.start([merge.request_id])
    ledger.complete(merge.request_id, "{}", clock.now)
    for _ in range(2):
        later = ledger.forget(GUEST, None, None).request
        assert (later.found, later.held, later.state) == (Outcome.MERGED, False, "completed")
    ledger.take_events([Event(row(GUEST, "i8", 1))], allow_returning=True)
    assert ledger.forget(GUEST, None, None).request.found is Outcome.ERASED
    assert ledger.forget(GUEST, None, None).request.found is Outcome.ERASED  # which is owed


def test_a_deletion_of_the_other_leaves_nothing_of_either(ledger: Ledger) -> None:
    ledger.impressions.record(
        [Impression("a distinctive answer", GUEST, ("i7",), "g", ledger.mask().fence, ledger.now())]
    )
    ledger.merge(GUEST, ACCOUNT, None)
    [shown] = ledger.export(ACCOUNT).impressions
    assert shown.recommendation_id == "a distinctive answer"
    request = ledger.forget(ACCOUNT, None, None).request
    assert (request.erased_interactions, request.erased_impressions) == (6, 1)
    assert counted(ledger) == {"bob": [row("bob", "i0", 1)]}
    for text in (GUEST, ACCOUNT, "a distinctive answer"):
        assert ledger.search(text).found == {}
    assert {"ad-guest", "ad-account"} == set(ledger.mask().adapters)


def test_an_impression_of_the_one_that_was_on_its_way_is_not_written(light: Ledger, clock: Clock) -> None:
    late = Impression("late", GUEST, ("i7",), "g", light.mask().fence, light.now())
    clock.now += 1
    light.merge(GUEST, ACCOUNT, None)
    assert light.impressions.record([late]) == 0
    assert light.impressions.attribute([Citation(ACCOUNT, "i7", "late", liked=True)]) == [False]


def test_what_the_other_wants_not_to_be_held_does_not_come_by_a_merge(light: Ledger, clock: Clock) -> None:
    """An item of which they had something erased, and what is older than a correction."""
    light.forget(ACCOUNT, ["i1"], None)
    light.rectify(ACCOUNT, Correction("i3", liked=False), None)
    clock.now += 1
    light.impressions.record([Impression("r", GUEST, ("i1", "i7"), "g", light.mask().fence, light.now())])
    light.merge(GUEST, ACCOUNT, None)
    held = {one.item_id: one.liked for one in light.export(ACCOUNT).rows}
    assert "i1" not in held
    assert held["i3"] is False
    [shown] = light.export(ACCOUNT).impressions
    assert [item.item_id for item in shown.items] == ["i7"]
    assert light.resurrected_users() == {}


def test_an_item_that_only_the_one_had_named_stays(light: Ledger) -> None:
    light.import_data([], [row(GUEST, "a distinctive item", 1)], None, create_items=True)
    light.merge(GUEST, ACCOUNT, None)
    assert "a distinctive item" in light.seen(ACCOUNT)
    assert light.unnamed_items() == 0


def test_a_guest_may_become_an_account_that_is_not_known_yet(light: Ledger) -> None:
    light.merge(GUEST, "new", None)
    assert light.seen("new") == {"i0", "i1", "i3", "i4", "i5"}


def test_once_more_under_one_key_is_the_same_merge(light: Ledger) -> None:
    first = light.merge(GUEST, ACCOUNT, "k").request
    assert light.merge(GUEST, ACCOUNT, "k").request.request_id == first.request_id
    with pytest.raises(IdempotencyConflict):
        light.merge(GUEST, "another", "k")
    with pytest.raises(UnknownUser):
        light.merge(GUEST, ACCOUNT, None)


@pytest.mark.parametrize("user", [GUEST, ACCOUNT])
@pytest.mark.parametrize("kind", ["restriction", "hold"])
def test_of_the_restricted_and_the_held_nothing_is_merged(light: Ledger, user: str, kind: RestraintKind) -> None:
    restraint: Restraint = (
        light.restraints.restrict(user, "objection") if kind == "restriction" else light.restraints.hold(user, "court")
    ).restraint
    assert restraint.kind == kind
    with pytest.raises(MergeRefused, match="lift the restriction, or release the hold, first"):
        light.merge(GUEST, ACCOUNT, None)
    assert len(light.export(GUEST).rows) == 5


def test_into_who_asked_for_deletion_nobody_is_merged_until_they_are_back(light: Ledger, clock: Clock) -> None:
    light.forget(ACCOUNT, None, None)
    with pytest.raises(MergeRefused, match="asked for deletion"):
        light.merge(GUEST, ACCOUNT, None)
    light.take_events([Event(row(ACCOUNT, "i8", int(clock.now)))], allow_returning=True)
    light.merge(GUEST, ACCOUNT, None)
    assert light.seen(ACCOUNT) == {"i0", "i1", "i3", "i4", "i5", "i8"}


def test_nobody_is_merged_into_themselves_and_of_nobody_nothing(light: Ledger) -> None:
    with pytest.raises(InvalidInput, match="one already"):
        light.merge(GUEST, f" {GUEST} ", None)
    with pytest.raises(UnknownUser, match="nothing to be merged"):
        light.merge("stranger", ACCOUNT, None)
    assert light.pending() == []

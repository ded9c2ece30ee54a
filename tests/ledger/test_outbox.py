"""The outbox of notifications: written with the change it tells of, and lost by nobody, on either database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.ledger import Ledger, OutboxEvent, tables
from service.records import Interaction, Item
from tests.ledger.test_ledger import stopping_at

SECRET = b"a secret of the tests"
LEASE = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    if request.param == "sqlite":
        with Ledger(tmp_path / "ledger.sqlite", SECRET, clock, announces=True) as opened:
            yield _with_ann(opened)
        return
    with request.getfixturevalue("new_database")() as url, Ledger(url, SECRET, clock, announces=True) as opened:
        yield _with_ann(opened)


def _with_ann(ledger: Ledger) -> Ledger:
    ledger.import_data([Item("1", "Film")], [Interaction("ann", "1", True, 1)], "movie")
    return ledger


def claimed(ledger: Ledger) -> list[OutboxEvent]:
    """All that are due, none of them delivered."""
    events = []
    while (event := ledger.outbox.claim(LEASE)) is not None:
        events.append(event)
    return events


def test_each_state_of_a_deletion_is_told_once(ledger: Ledger, clock: Clock) -> None:
    request = ledger.forget("ann", None, "a key").request
    masked_at = clock.now
    for _ in range(2):
        ledger.forget("ann", None, "a key")
        ledger.start([request.request_id])
        clock.now += 10
        ledger.fail([request.request_id], "the disk is full")
    for receipt in ("first", "second"):
        ledger.complete(request.request_id, receipt, clock.now)
    ledger.fail([request.request_id], "too late")
    told = [(event.state, event.occurred_at, event.accepted_at, event.attempts) for event in claimed(ledger)]
    assert told == [
        ("masked", masked_at, masked_at, 1),
        ("failed", masked_at + 10, masked_at, 1),
        ("completed", masked_at + 20, masked_at, 1),
    ]


def test_where_nothing_was_held_it_is_masked_and_completed_all_the_same(ledger: Ledger) -> None:
    """Or what is told would tell who is held."""
    request = ledger.forget("nobody", None, None).request
    assert [event.state for event in claimed(ledger)] == ["masked"]
    ledger.complete(request.request_id, "receipt", request.masked_at)
    assert [event.state for event in claimed(ledger)] == ["completed"]


def test_of_a_held_deletion_it_is_told_that_it_is_masked_and_it_is_owed_from_the_release_on(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.restraints.hold("ann", "a case")
    request = ledger.forget("ann", None, None).request
    accepted_at = clock.now
    [masked] = claimed(ledger)
    assert (masked.state, masked.owed_since) == ("masked", accepted_at)
    clock.now += 1_000
    ledger.restraints.release_hold("ann")
    ledger.complete(request.request_id, "receipt", clock.now)
    completed = next(event for event in claimed(ledger) if event.state == "completed")
    assert (completed.accepted_at, completed.owed_since) == (accepted_at, accepted_at + 1_000)


def test_a_change_that_is_undone_is_not_told(ledger: Ledger) -> None:
    with stopping_at("lethe.forget.before_commit"), pytest.raises(RuntimeError):
        ledger.forget("ann", None, None)
    assert claimed(ledger) == []


def test_nothing_is_noted_where_nobody_wants_to_be_told(tmp_path: Path) -> None:
    with Ledger(tmp_path / "silent.sqlite", SECRET) as silent:
        request = silent.forget("nobody", None, None).request
        silent.complete(request.request_id, "receipt", 1.0)
        assert claimed(silent) == []
        assert silent.outbox.counts().pending == 0


def test_an_event_is_one_workers_until_its_lease_is_over(ledger: Ledger, clock: Clock) -> None:
    ledger.forget("ann", None, None)
    [first] = claimed(ledger)
    clock.now += LEASE - 1
    assert claimed(ledger) == []
    clock.now += 1
    [again] = claimed(ledger)  # who had it has died
    assert (again.request_id, again.attempts) == (first.request_id, 2)
    ledger.outbox.note_delivered(again)
    ledger.outbox.note_failed(first, 1.0)  # it had only been slow
    clock.now += 10 * LEASE
    assert claimed(ledger) == []
    assert ledger.outbox.counts().delivered == 1


def test_workers_at_once_get_each_event_once(ledger: Ledger) -> None:
    for number in range(20):
        ledger.forget(f"nobody-{number}", None, None)
    with ThreadPoolExecutor(4) as workers:
        found = [event for events in workers.map(lambda _: claimed(ledger), range(4)) for event in events]
    assert len({event.request_id for event in found}) == len(found) == 20


def test_how_things_stand_is_counted_and_what_is_over_goes_after_a_time(ledger: Ledger, clock: Clock) -> None:
    for number in range(3):
        ledger.forget(f"nobody-{number}", None, None)
    clock.now += 5
    delivered, given_up, waiting = claimed(ledger)
    ledger.outbox.note_delivered(delivered)
    ledger.outbox.note_failed(given_up, None)
    ledger.outbox.note_failed(waiting, 30.0)
    counts = ledger.outbox.counts()
    assert (counts.pending, counts.delivered, counts.given_up, counts.oldest_pending) == (1, 1, 1, 5.0)
    assert ledger.outbox.prune(1.0) == 0
    clock.now += 2 * 86_400
    assert ledger.outbox.prune(1.0) == 2
    assert ledger.outbox.counts().pending == 1


def test_the_outbox_names_nobody(ledger: Ledger) -> None:
    ledger.forget("ann", None, "a key of ann")
    with ledger._database.read_transaction() as connection:
        held = str(connection.execute(sa.select(tables.outbox)).all())
    assert "ann" not in held
    assert not any(subject in held for subject in ledger.subjects("ann"))

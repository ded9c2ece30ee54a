"""The audit trail: appended to, chained, and rid of people without a break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.ledger import Ledger, tables
from service.records import Interaction, Item, Requester

SECRET = b"a secret of the tests"
PORTAL = Requester("key-1", "key-1", "192.0.2.1")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite", SECRET, clock=lambda: 1_800_000_000.0) as opened:
        rows = [Interaction(user, "1", True, 1) for user in ("ann", "bob")]
        opened.import_data([Item("1", "Film"), Item("2", "Other")], rows, "movie")
        yield opened


def change(ledger: Ledger, statement: sa.Executable) -> None:
    with ledger._database.write_transaction() as connection:
        connection.execute(statement)


def test_a_trail_is_sound_and_a_change_of_anything_in_it_is_found(ledger: Ledger) -> None:
    ledger.forget("ann", None, None, by=PORTAL)
    for number in range(4):
        ledger.trail.note("operator", f"action {number}", "done")
    assert ledger.trail.check().faults == ()
    entry = tables.audit_log.c
    for column in ("actor", "action", "outcome", "subject_digest", "address", "at"):
        with ledger._database.read_transaction() as connection:
            before = connection.scalar(sa.select(entry[column]).where(entry.seq == 1))
        forged = 5.0 if column == "at" else "forged"
        change(ledger, sa.update(tables.audit_log).where(entry.seq == 1).values({column: forged}))
        assert ledger.trail.check().faults == ("entry 1 was changed",), column
        change(ledger, sa.update(tables.audit_log).where(entry.seq == 1).values({column: before}))
    assert ledger.trail.check().faults == ()


def test_an_entry_that_was_removed_is_missed(ledger: Ledger) -> None:
    for number in range(5):
        ledger.trail.note("operator", f"action {number}", "done")
    change(ledger, sa.delete(tables.audit_log).where(tables.audit_log.c.seq == 3))
    assert ledger.trail.check().faults == ("entries 3 to 3 are missing",)


def test_a_completed_deletion_removes_the_person_from_earlier_entries_and_keeps_its_own(ledger: Ledger) -> None:
    ledger.forget("ann", ["2"], None, by=PORTAL)
    ledger.forget("bob", ["2"], None, by=PORTAL)
    request = ledger.forget("ann", None, None, by=PORTAL).request
    subject = ledger.subject("ann")
    assert [entry.event.subject for entry in ledger.trail.entries(9)].count(subject) == 2
    ledger.start([request.request_id])
    ledger.complete(request.request_id, "{}", 1_800_000_001.0)
    told = [entry.event for entry in ledger.trail.entries(9)]
    assert [(event.subject, event.address) for event in told] == [
        (None, None),
        (ledger.subject("bob"), "192.0.2.1"),
        (subject, "192.0.2.1"),
        (subject, None),
    ]
    assert told[0].request_id is not None
    assert ledger.trail.check().faults == ()


def test_nothing_of_a_removed_person_can_be_tried_out(ledger: Ledger) -> None:
    ledger.forget("ann", ["2"], None, by=PORTAL)
    request = ledger.forget("ann", None, None, by=PORTAL).request
    ledger.complete(request.request_id, "{}", 1_800_000_001.0)
    with ledger._database.read_transaction() as connection:
        first = connection.execute(sa.select(tables.audit_log).where(tables.audit_log.c.seq == 1)).one()
    assert (first.subject_salt, first.address_salt) == (None, None)


def test_old_entries_go_and_the_chain_begins_later(ledger: Ledger) -> None:
    for number in range(4):
        ledger.trail.note("operator", f"action {number}", "done")
    long_ago = tables.audit_log.c.seq <= 2
    # As if time had passed; so these two entries count as changed until they are gone.
    change(ledger, sa.update(tables.audit_log).where(long_ago).values(at=5.0))
    assert ledger.trail.prune(days=30) == 2
    assert ledger.trail.prune(days=30) == 0
    found = ledger.trail.check()
    assert (found.first, found.last, found.faults) == (3, 4, ())
    ledger.trail.note("operator", "later", "done")
    assert ledger.trail.check().last == 5


def test_the_newest_entry_stays_however_old(ledger: Ledger) -> None:
    ledger.trail.note("operator", "action", "done")
    change(ledger, sa.update(tables.audit_log).values(at=5.0))
    assert ledger.trail.prune(days=1) == 0


def test_a_trail_verifies_after_a_rotation_of_the_secret(ledger: Ledger) -> None:
    ledger.trail.note("operator", "action", "done")
    trail = type(ledger.trail)
    from_now_on = type(ledger._hashes)(b"another secret of the tests", [SECRET])
    assert trail(ledger._database, from_now_on, ledger.now).check().faults == ()
    without = type(ledger._hashes)(b"another secret of the tests")
    assert trail(ledger._database, without, ledger.now).check().faults == ("entry 1 was changed",)

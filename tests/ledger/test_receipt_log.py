"""The log of receipts: every completed request is in it once, and no change of it goes unnoticed, on either database."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.errors import InvalidInput, UnknownRequest
from service.ledger import Ledger, entry_of, leaf_hash, proves_consistency, proves_inclusion, tables
from service.records import Interaction, Item

SECRET = b"a secret of the tests"
RECEIPTS = 7
NODES, LOGGED = tables.receipt_log, tables.logged_receipts


@pytest.fixture(params=["sqlite", "postgres"])
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
def light(tmp_path: Path) -> Iterator[Ledger]:
    """On SQLite, for what does not depend on the database."""
    with Ledger(tmp_path / "ledger.sqlite", SECRET) as opened:
        yield opened


def complete(ledger: Ledger, number: int) -> str:
    """A deletion of nobody, which waits for its receipt alone."""
    request = ledger.forget(f"nobody-{number}", None, None).request
    ledger.complete(request.request_id, receipt_of(number), 2_000.0 + number)
    return request.request_id


def receipt_of(number: int) -> str:
    return f'{{"receipt":{number}}}\n'


def filled(ledger: Ledger) -> list[str]:
    return [complete(ledger, number) for number in range(RECEIPTS)]


def change(ledger: Ledger, *statements: sa.Executable) -> None:
    with ledger._database.write_transaction() as connection:
        for statement in statements:
            connection.execute(statement)


def test_every_receipt_is_proved_to_be_in_the_log_at_every_size_from_its_own_on(ledger: Ledger) -> None:
    ids, log = filled(ledger), ledger.receipt_log
    assert log.check().faults == ()
    for number, request_id in enumerate(ids):
        digest = hashlib.sha256(receipt_of(number).encode()).digest()
        for size in range(number + 1, RECEIPTS + 1):
            head, shown = log.prove_inclusion(request_id, size)
            assert (head, shown.index) == (log.head(size), number)
            leaf = leaf_hash(entry_of(shown.salt, digest))
            assert proves_inclusion(leaf, shown.index, size, shown.path, head.root)
        if number:
            with pytest.raises(InvalidInput, match="came into the log later"):
                log.prove_inclusion(request_id, number)


def test_every_head_goes_on_from_every_earlier_one(ledger: Ledger) -> None:
    filled(ledger)
    log = ledger.receipt_log
    for second in range(RECEIPTS + 1):
        for first in range(second + 1):
            head, shown = log.prove_consistency(first, second)
            assert proves_consistency(first, second, log.head(first).root, head.root, shown.path)


def test_an_empty_log_has_a_head_and_nothing_else(light: Ledger) -> None:
    assert light.receipt_log.head().root == hashlib.sha256().digest()
    assert light.receipt_log.check().head.size == 0
    with pytest.raises(UnknownRequest):
        light.receipt_log.prove_inclusion("none")


def test_what_the_log_never_was_has_no_head_and_no_proof(light: Ledger) -> None:
    filled(light)
    for size in (-1, RECEIPTS + 1):
        with pytest.raises(InvalidInput):
            light.receipt_log.head(size)
        with pytest.raises(InvalidInput):
            light.receipt_log.prove_consistency(size)


def test_a_deletion_that_is_owed_is_not_in_the_log_yet_and_a_second_receipt_adds_nothing(light: Ledger) -> None:
    light.import_data([Item("1", "Film")], [Interaction("ann", "1", True, 1)], "movie")
    owed = light.forget("ann", None, None).request.request_id
    assert light.receipt_log.head().size == 0
    with pytest.raises(UnknownRequest):
        light.receipt_log.prove_inclusion(owed)
    for receipt in ("first", "second"):
        light.complete(owed, receipt, 3_000.0)
    assert light.receipt_log.head().size == 1
    assert light.receipt_log.check().faults == ()


def test_the_log_names_nobody(light: Ledger) -> None:
    """Hashes alone, and two receipts of the same bytes have nothing in common: the salts are elsewhere."""
    ids = [light.forget(f"nobody-{number}", None, None).request.request_id for number in range(2)]
    for request_id in ids:
        light.complete(request_id, "the same", 1.0)
    with light._database.read_transaction() as connection:
        rows = connection.execute(sa.select(NODES)).all()
    assert len({row.hash for row in rows}) == len(rows) == 3
    held = " ".join(str(value) for row in rows for value in row)
    assert not any(text in held for text in (*ids, light.subject("nobody-0"), light.subject("nobody-1")))


def test_completions_at_once_are_entries_of_their_own(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(lambda number: complete(ledger, number), range(24)))
    found = ledger.receipt_log.check()
    assert (found.head.size, found.receipts, found.faults) == (24, 24, ())


def removed(ledger: Ledger, ids: list[str]) -> None:
    """An entry from the middle, and the others moved up."""
    change(
        ledger,
        sa.delete(NODES).where(NODES.c.level == 0, NODES.c.position == 3),
        *(
            sa.update(NODES).where(NODES.c.level == 0, NODES.c.position == at).values(position=at - 1)
            for at in range(4, RECEIPTS)
        ),
    )


def gone(ledger: Ledger, ids: list[str]) -> None:
    change(ledger, sa.delete(NODES).where(NODES.c.level == 0, NODES.c.position == 3))


def altered(ledger: Ledger, ids: list[str]) -> None:
    change(ledger, sa.update(NODES).where(NODES.c.level == 0, NODES.c.position == 3).values(hash="00" * 32))


def altered_above(ledger: Ledger, ids: list[str]) -> None:
    change(ledger, sa.update(NODES).where(NODES.c.level == 1, NODES.c.position == 1).values(hash="00" * 32))


def reordered(ledger: Ledger, ids: list[str]) -> None:
    _swap(ledger, NODES, NODES.c.level == 0)


def reordered_with_their_claims(ledger: Ledger, ids: list[str]) -> None:
    """As if the receipts had been completed in another order: only the hashes above still tell."""
    _swap(ledger, NODES, NODES.c.level == 0)
    _swap(ledger, LOGGED, sa.true())


def _swap(ledger: Ledger, table: sa.Table, where: sa.ColumnElement[bool]) -> None:
    for old, new in ((3, 99), (4, 3), (99, 4)):
        change(ledger, sa.update(table).where(where, table.c.position == old).values(position=new))


def receipt_changed(ledger: Ledger, ids: list[str]) -> None:
    of = tables.forget_requests
    change(ledger, sa.update(of).where(of.c.request_id == ids[3]).values(receipt="another"))


def receipt_removed(ledger: Ledger, ids: list[str]) -> None:
    change(ledger, sa.delete(tables.forget_requests).where(tables.forget_requests.c.request_id == ids[3]))


def not_entered(ledger: Ledger, ids: list[str]) -> None:
    change(ledger, sa.delete(LOGGED).where(LOGGED.c.request_id == ids[3]))


FORGERIES = (
    removed,
    gone,
    altered,
    altered_above,
    reordered,
    reordered_with_their_claims,
    receipt_changed,
    receipt_removed,
    not_entered,
)


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_a_look_at_the_whole_log_finds(light: Ledger, forge: Callable[[Ledger, list[str]], None]) -> None:
    ids = filled(light)
    forge(light, ids)
    assert light.receipt_log.check().faults

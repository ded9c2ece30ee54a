"""Ledgers and stores as earlier versions left them, brought to this version: nothing of a deletion is lost on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from service.config import load_settings
from service.entrypoints import building
from service.entrypoints.bootstrap import Home
from service.entrypoints.http.schemas import SignedReceipt
from service.forgetting import receipts
from service.ledger import upgrade_ledger
from service.ledger.migrations import VERSION_TABLE
from service.ledger.schema import known_schema
from service.records import Interaction
from tests.forks import Forks
from tests.upgrades.conftest import OldHome, connected

pytestmark = pytest.mark.thorough

Rows = dict[str, list[dict[str, Any]]]


def all_rows(url: str) -> Rows:
    """Table -> its rows in the order of their keys, as column -> value."""
    reflected = sa.MetaData()
    with connected(url) as connection:
        reflected.reflect(connection)
        return {
            table.name: [
                dict(row) for row in connection.execute(table.select().order_by(*table.primary_key)).mappings()
            ]
            for table in reflected.sorted_tables
            if table.name != VERSION_TABLE
        }


@pytest.fixture
def opened(old: OldHome, tiny_models: Callable[..., Path]) -> Iterator[Home]:
    """The old home, upgraded because this version was started on it."""
    model = str(tiny_models("llama"))
    home = Home.open(load_settings(home=old.folder, database_url=old.url, model=model, build_processes=1))
    yield home
    home.ledger.close()


@pytest.fixture
def lethe(old: OldHome, forks: Forks, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """A function: arguments of a command on the old home -> exit code, standard output, standard error."""

    def run(*arguments: str, **changed: str) -> tuple[int, str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
        own = {"LETHE_HOME": str(old.folder), "LETHE_DATABASE_URL": old.url, **changed}
        out, err = tmp_path / "stdout", tmp_path / "stderr"
        for file in (out, err):
            file.write_bytes(b"")
        code = forks.begin(arguments, {**kept, **own}, out, err).wait()
        return code, out.read_text(), err.read_text()

    return run


def test_the_command_says_from_what_to_what_and_twice_is_once(old: OldHome, lethe: Callable[..., Any]) -> None:
    now = known_schema().newest
    for before in (old.facts.get("schema", "unversioned"), now):
        code, out, _ = lethe("upgrade", "--json")
        assert (code, json.loads(out)) == (0, {"ledger_schema_before": before, "ledger_schema": now, "store_format": 1})


def test_a_store_of_a_later_version_stops_the_command_with_what_to_do(old: OldHome, lethe: Callable[..., Any]) -> None:
    (old.folder / "store").mkdir(exist_ok=True)
    (old.folder / "store" / "FORMAT").write_text("3\n")
    code, _, err = lethe("upgrade")
    assert code == 1
    assert "the store has format 3, made by a later version" in err


def test_the_command_makes_no_ledger_where_none_is(tmp_path: Path, lethe: Callable[..., Any]) -> None:
    nowhere = tmp_path / "nowhere"
    code, _, err = lethe("upgrade", LETHE_HOME=str(nowhere), LETHE_DATABASE_URL=f"sqlite:///{nowhere}/ledger.sqlite")
    assert code == 1
    assert "there is no ledger here" in err
    assert not nowhere.exists()


def test_every_row_is_what_it_was(old: OldHome) -> None:
    before = all_rows(old.url)
    assert all(before[table] for table in ("forget_requests", "masks", "tombstones", "interactions", "exposures"))
    version, now = upgrade_ledger(old.url)
    assert (version, now) == (old.facts.get("schema", "unversioned"), known_schema().newest)
    after = all_rows(old.url)
    for table, rows in before.items():
        kept = [{column: row[column] for column in rows[0]} for row in after[table]] if rows else after[table]
        assert kept == rows, table


def test_the_receipts_of_before_are_in_the_log_in_the_order_of_their_completion(old: OldHome, opened: Home) -> None:
    found = opened.ledger.receipt_log.check()
    assert found.faults == ()
    requests = [one for one in opened.ledger.requests_after(None, "completed", 100) if one.receipt is not None]
    assert found.head.size == found.receipts == len(requests) >= 3
    known = sorted(requests, key=lambda one: (one.completed_at, one.request_id))
    shown = [opened.ledger.receipt_log.prove_inclusion(one.request_id)[1].index for one in known]
    assert shown == list(range(len(known)))
    opened.intake().forget("somebody of now", None, None)
    assert opened.ledger.receipt_log.check().faults == ()
    assert opened.ledger.receipt_log.head().size == len(known) + 1


def test_what_was_counted_masked_and_served_is_so_still(old: OldHome, opened: Home) -> None:
    counts, mask = opened.ledger.counts(), opened.ledger.mask()
    assert [counts.items, counts.interactions, counts.users] == old.facts["counts"]
    assert {kind: sorted(getattr(mask, kind)) for kind in old.facts["masks"]} == old.facts["masks"]
    assert (mask.fence, mask.revision, mask.generation) == tuple(
        old.facts[name] for name in ("fence", "revision", "generation")
    )


def test_old_receipts_verify_with_the_key_that_was_published_then(old: OldHome, opened: Home) -> None:
    signed = [old.facts["completed"], old.facts["single"][0]]
    for request_id in signed:
        receipt = opened.ledger.request(request_id).receipt
        assert receipt is not None
        assert receipts.verify(receipt, opened.signer.public_key_pem())["request_id"] == request_id
        assert set(SignedReceipt.model_validate_json(receipt).receipt) > {
            "accepted_at",
            "erasure",
        }  # as the contract has it
    assert opened.ledger.request(old.facts["owed"]).receipt is None


def test_who_was_forgotten_stays_so(old: OldHome, opened: Home) -> None:
    assert opened.restore_check().requests == ()
    _, user, item = old.facts["single"]
    back = [*(Interaction(name, item, True, 1) for name in old.facts["forgotten"]), Interaction(user, item, True, 1)]
    counts = opened.ledger.import_data((), [*back, Interaction(old.facts["living"], item, True, 99_999)], None)
    assert counts.tombstoned == len(back)
    assert opened.ledger.history(old.facts["living"], 1)[0].item.item_id == item


def test_a_request_asked_for_again_is_the_one_of_then(old: OldHome, opened: Home) -> None:
    first, second = old.facts["forgotten"]
    again = opened.intake().forget(first, None, old.facts["idempotency_key"])
    assert again.request_id == old.facts["completed"]
    assert opened.intake().forget(second, None, None).request_id == old.facts["owed"]


def test_a_deletion_owed_at_the_upgrade_is_carried_out_after_it(old: OldHome, opened: Home) -> None:
    bell = opened.bell()
    building.reconciler(opened, bell).reconcile_once()
    bell.close()
    done = opened.ledger.request(old.facts["owed"])
    assert done.state == "completed"
    assert done.receipt is not None
    content = receipts.verify(done.receipt, opened.signer.public_key_pem())
    assert json.dumps(content).count(old.facts["forgotten"][1]) == 0
    assert opened.ledger.mask().empty

"""Ledgers and stores as earlier versions left them, brought to this version: nothing of a deletion is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from service.config import load_settings
from service.data.ledger import upgrade_ledger
from service.data.ledger.migrations import VERSION_TABLE
from service.data.ledger.schema import known_schema
from service.entrypoints.bootstrap import Home
from service.forgetting import receipts
from service.records import Interaction
from tests.upgrades.conftest import OldHome, connected

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


def test_every_row_is_what_it_was(old: OldHome) -> None:
    before = all_rows(old.url)
    assert all(before[table] for table in ("forget_requests", "masks", "tombstones", "interactions", "exposures"))
    version, now = upgrade_ledger(old.url)
    assert (version, now) == (old.facts.get("schema", "unversioned"), known_schema().newest)
    after = all_rows(old.url)
    for table, rows in before.items():
        kept = [{column: row[column] for column in rows[0]} for row in after[table]] if rows else after[table]
        assert kept == rows, table


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
    opened.reconciler(bell).settle()
    bell.close()
    done = opened.ledger.request(old.facts["owed"])
    assert done.state == "completed"
    assert done.receipt is not None
    content = receipts.verify(done.receipt, opened.signer.public_key_pem())
    assert json.dumps(content).count(old.facts["forgotten"][1]) == 0
    assert opened.ledger.mask().empty

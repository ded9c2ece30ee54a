"""A build that is only compared must not be remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.building.dry_run import DryRunLedger
from service.ledger import Ledger
from service.records import Interaction, Item, ShardAssignment

SECRET = b"a secret of the tests"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    opened = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", SECRET)
    opened.import_data([Item("i1", "Heat")], [Interaction("ann", "i1", True, 5)], "movie")
    opened.record_lineage(0, {"served": ["ann"]}, {}, {"served": "0"})
    return opened


def test_a_deletion_does_not_name_what_a_dry_run_has_made(ledger: Ledger, tmp_path: Path) -> None:
    dry_run = DryRunLedger(f"sqlite:///{tmp_path}/ledger.sqlite", SECRET)
    before = ledger.mask()
    dry_run.record_lineage(0, {"tried": ["ann"]}, {"row": "ann"}, {"tried": "0"})
    with dry_run.read_transaction() as transaction:
        changed = transaction.changed(None, None)
    dry_run.begin_fingerprint("another")
    dry_run.save_assignments(changed, [ShardAssignment("ann", "ann", "01", 1, "digest")])
    dry_run.record_partition("digest", [("ann", "ann", "000000")])
    dry_run.set_shards_training(3)
    assert dry_run.view() == ledger.view()
    assert (ledger.recorded_partition("digest"), ledger.shards_training()) == ({}, 0)
    with ledger.read_transaction() as transaction:
        assert (transaction.fingerprint, transaction.assignments_under(""), transaction.changed(None, None)) == (
            None,
            [],
            changed,
        )
    assert ledger.mask() == before
    request = ledger.forget("ann", None, None).request
    assert (request.affected_shards, request.shard_names, request.masked_rows) == (("served",), ("0",), 0)

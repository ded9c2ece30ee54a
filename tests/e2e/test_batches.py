"""Many deletions at once on real data: one pass of a worker for all of them, and a receipt of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from service.config import load_settings
from service.entrypoints.bootstrap import Home

from .conftest import Installation

FORGOTTEN = 200
SMALL = {
    "LETHE_SAMPLES_PER_USER": "2",
    "LETHE_EPOCHS": "1",
    "LETHE_MAX_SHARD_SIZE": "400",
    "LETHE_VALIDATION_PERCENT": "10",
}


@pytest.mark.thorough
def test_a_batch_of_200_deletions_takes_one_pass_and_gives_200_receipts(
    installations: Callable[..., Installation], shared_data: Path
) -> None:
    installation = installations(**SMALL)
    installation.lethe("import", "movielens", str(shared_data / "ml-100k"))
    before = installation.build()
    people, receipts = installation.folder / "people.txt", installation.folder / "receipts"
    people.write_text("".join(f"{number}\n" for number in range(1, FORGOTTEN + 1)))
    done = installation.report("forget", "--users", str(people), "--receipts", str(receipts))
    assert (done["requests"], done["completed"], done["held_anything"]) == (FORGOTTEN,) * 3
    files = sorted(receipts.iterdir())
    assert [file.stem for file in files] == sorted(done["request_ids"])
    assert installation.report("receipts", "verify", *map(str, files)) == {"verified": 200, "deletions": 200}
    stated = [json.loads(file.read_text())["receipt"] for file in files]
    # One pass: one generation replaced what they were in, and no other was made on the way.
    [(first, last)] = {(one["generation"]["before"], one["generation"]["after"]) for one in stated}
    assert (first, last) == (before["generation"], installation.report("status")["generation"])
    assert sum(one["counts"]["interactions"] for one in stated) == 100_000 - _rows_left(installation)
    assert all(one["erasure"]["found"] == 0 for one in stated)
    assert "byte for byte" in installation.lethe("verify", "--rebuild")


def _rows_left(installation: Installation) -> int:
    settings = load_settings(home=installation.home, secret=installation.environment["LETHE_SECRET"])
    opened = Home.open(settings)
    with opened.ledger as ledger:
        return ledger.counts().interactions


@pytest.mark.thorough
def test_of_several_receipts_a_changed_one_is_named(built: Installation) -> None:
    people, receipts = built.folder / "people.txt", built.folder / "receipts"
    people.write_text("nobody\nnone\n")
    done = built.run("forget", "--users", str(people), "--receipts", str(receipts), "--json")
    assert (done.code, json.loads(done.out)["receipts"]) == (3, 2)
    first, second = sorted(receipts.iterdir())
    assert built.report("receipts", "verify", str(first), str(second)) == {"verified": 2, "deletions": 2}
    second.write_text(second.read_text().replace("nothing_held", "erased"))
    refused = built.run("receipts", "verify", str(first), str(second))
    assert refused.code == 1
    assert second.name in refused.err

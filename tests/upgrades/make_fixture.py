"""Made the fixtures beside it with the code as it was on 2026-11-28, the last whose ledger names no version of its schema.

    PYTHONPATH=<a checkout of that code> python tests/upgrades/make_fixture.py FOLDER

A later code would make a later ledger, so this is not run again: it says what is in the files. For SQLite and for
PostgreSQL it leaves `ledger.sql` (a dump as SQL text), and beside it the home folder's keys and tombstone file (and for SQLite
its store). In each ledger are a completed deletion with its signed receipt, one of a single item, one of somebody who was never
held, one that is owed with its masks, an idempotency key and a recorded partition. `facts.json` holds what is found again.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pgserver
from pgserver.postgres_server import get_server

from service.config import load_settings
from service.data import importers
from service.entrypoints import building
from service.entrypoints.bootstrap import Home
from tests.conftest import save_tiny_model, tiny_tokenizer

SETTINGS = {
    "max_shard_size": 60,
    "validation_percent": 20.0,
    "tree_depth": 1,
    "history_length": 3,
    "lora_rank": 2,
    "epochs": 1,
    "build_processes": 2,
}
USERS = [f"reader-{number:02}" for number in range(16)]
ITEMS = [(f"film{number:02}", f"Film {number:02} ({1960 + number})") for number in range(20)]


def write_tables(folder: Path) -> tuple[Path, Path]:
    items, interactions = folder / "items.csv", folder / "interactions.csv"
    with items.open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "title", "genres"), *((*item, "Drama|War") for item in ITEMS)])
    with interactions.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "liked", "timestamp"])
        for user in USERS:
            chance = random.Random(user)
            for when, (item_id, _) in enumerate(chance.sample(ITEMS, 10)):
                writer.writerow([user, item_id, chance.randrange(2), 1_000 + when])
    return items, interactions


def fill(home: Home, folder: Path) -> dict[str, Any]:
    items, interactions = write_tables(folder)
    dataset = importers.table(items, interactions, None, "movie")
    home.ledger.import_data(dataset.items, dataset.interactions, dataset.item_type)
    bell = home.bell()
    reconciler = building.reconciler(home, bell)
    reconciler.rebuild(home.settings.build_config())
    intake = home.intake()
    done = intake.forget(USERS[0], None, "the key of the first")
    item = home.ledger.history(USERS[1], 1)[0].item.item_id
    single = intake.forget(USERS[1], [item], None)
    never = intake.forget("never-held", None, None)
    reconciler.reconcile_once()
    home.ledger.record_partition("a" * 64, [(USERS[3], USERS[3], "0")])
    pending = intake.forget(USERS[2], None, None)
    bell.close()
    mask, counts = home.ledger.mask(), home.ledger.counts()
    return {
        "completed": done.request_id,
        "single": [single.request_id, USERS[1], item],
        "never": never.request_id,
        "owed": pending.request_id,
        "idempotency_key": "the key of the first",
        "forgotten": [USERS[0], USERS[2]],
        "living": USERS[3],
        "counts": [counts.items, counts.interactions, counts.users],
        "masks": {kind: sorted(getattr(mask, kind)) for kind in ("adapters", "rows", "memories")},
        "fence": mask.fence,
        "revision": mask.revision,
        "generation": mask.generation,
    }


def make(target: Path, database_url: str | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model, folder = Path(scratch) / "model", Path(scratch)
        save_tiny_model(model, "llama", tiny_tokenizer(480), {})
        home = Home.open(load_settings(home=folder / "home", model=str(model), database_url=database_url, **SETTINGS))
        facts = fill(home, folder)
        home.ledger.close()
        target.mkdir(parents=True, exist_ok=True)
        (target / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
        shutil.copytree(folder / "home", target / "home", ignore=shutil.ignore_patterns("ledger.sqlite*", "*.lock"))
        if database_url is None:
            with sqlite3.connect(folder / "home" / "ledger.sqlite") as connection:
                (target / "ledger.sql").write_text("\n".join(connection.iterdump()) + "\n")
        else:
            dump = Path(pgserver.__file__).parent / "pginstall" / "bin" / "pg_dump"
            arguments = [str(dump), "--inserts", "--no-owner", "--no-privileges", database_url]
            text = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
            (target / "ledger.sql").write_text(text)


def main() -> None:
    target = Path(sys.argv[1])
    make(target / "sqlite", None)
    folder = Path(tempfile.mkdtemp())
    server = get_server(folder, cleanup_mode="delete")
    make(target / "postgresql", server.get_uri())
    server.cleanup()


if __name__ == "__main__":
    os.environ.pop("LETHE_HOME", None)
    main()

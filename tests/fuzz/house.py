"""The installation that is fuzzed: people whose ids and titles are found wherever they turn up, and a key of each kind."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.conftest import ALONE, ITEMS, QUICK, USERS, Installation, Server
from tests.forks import Forks

MARK = "zqfuzz"  # what every planted text holds
RATER = f"{MARK}-rater"
MADE_ITEM = f"{MARK}-title"  # of an item that no catalog states: as personal as the row that made it
SCOPES = ("recommend", "explain", "titles", "forget", "rights", "receipts", "operate", "metrics", "ingest", "items")
_PLENTY = "1000000000"
_SETTINGS = {
    "LETHE_REQUESTS_PER_MINUTE": _PLENTY,
    "LETHE_TOKENS_PER_MINUTE": _PLENTY,
    "LETHE_LOG_LEVEL": "DEBUG",
    "LETHE_REQUEST_TIMEOUT": "5",
    # The longest lists that schemas allow take seconds each, and tell nothing that shorter ones do not.
    "LETHE_MAX_BODY_BYTES": "6144",
    "LETHE_MAX_BATCH_BYTES": "6144",
}


@dataclass(frozen=True)
class House:
    """A server, and the keys by their names: a scope each, `all`, and those that open nothing."""

    server: Server
    keys: Mapping[str, str | None]
    installation: Installation

    def secrets(self) -> list[str]:
        """What no answer of refusal, log, metric or span may hold."""
        return [MARK, *USERS, *(key.split("_", 2)[2] for key in self.keys.values() if key)]


def installed(folder: Path, model: Path, forks: Forks, **settings: str) -> Installation:
    """Built, with a person of whom one row names an item of their own, and with some deletions completed."""
    installation = Installation(folder, model, forks, **QUICK | _SETTINGS | settings)
    installation.import_people()
    rows = folder / "own.csv"
    with rows.open("w", newline="") as file:
        written = csv.writer(file)
        written.writerow(["user_id", "item_id", "liked", "timestamp"])
        written.writerow([RATER, MADE_ITEM, 1, 1_000])
        written.writerows([RATER, item_id, 1, 1_001] for item_id, _ in ITEMS[:8])
    installation.lethe("import", "table", "--interactions", str(rows), "--create-items", "--noun", "movie")
    installation.build()
    return installation


def keys_of(installation: Installation) -> dict[str, str | None]:
    """A key of each scope alone, one of all, a revoked one, one that was never made, and none."""
    found: dict[str, str | None] = {"none": None, "wrong": "lethe_0123456789abcdef_" + "A" * 43}
    for name in (*SCOPES, "all", "revoked"):
        file = installation.folder / f"key-{name}"
        scopes = name if name in SCOPES else ",".join(SCOPES)
        quota = ("--requests-per-minute", _PLENTY, "--tokens-per-minute", _PLENTY, "--deletions-per-minute", _PLENTY)
        made = installation.report("keys", "create", "--name", name, "--scopes", scopes, *quota, "--to", str(file))
        found[name] = file.read_text().strip()
        if name == "revoked":
            installation.lethe("keys", "revoke", made["key_id"])
    return found


@contextmanager
def opened(installation: Installation, keys: Mapping[str, str | None], *options: str) -> Iterator[House]:
    """Served without a worker: what is owed stays owed, so that neither a build nor a lock decides what is answered."""
    with installation.serving_ready(*(options or (ALONE,))) as server:
        yield House(server, keys, installation)

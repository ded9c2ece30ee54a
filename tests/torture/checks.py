"""What must hold of an installation at rest. Every check returns what it found wrong, in words; nothing found is good."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg

from adapters_store import unwrap
from adapters_store.sealing import unseal
from adapters_store.store import ACTIVE, FORMAT, MANIFEST
from service.errors import ReceiptInvalid
from service.forgetting.receipts import ReceiptSigner, verify
from service.forgetting.store_key import STORE_KEY

from .world import World

DATABASE_URL = "database-url"  # file that names the ledger's database, where it is a PostgreSQL
_HOME = {
    "ledger.sqlite",
    "ledger.sqlite-wal",
    "ledger.sqlite-shm",
    "incidents.jsonl",
    "receipts.pem",
    "store",
    STORE_KEY,
    "tombstones.jsonl",
    "worker.lock",
}
_STORE = {"adapters", "generations", "memory", "tmp", ACTIVE, FORMAT}


def query(home: Path, sql: str) -> list[tuple[object, ...]]:
    """What the home's ledger answers: an SQLite file, or what a file beside the home names."""
    named = home.parent / DATABASE_URL
    if named.exists():
        with psycopg.connect(named.read_text()) as server:
            return server.execute(sql.encode()).fetchall()
    with closing(sqlite3.connect(f"file:{home}/ledger.sqlite?mode=ro", uri=True, timeout=30)) as connection:
        return connection.execute(sql).fetchall()


def everything(home: Path, clean: Path, world: World) -> list[str]:
    """All checks; `clean` is the home of a clean build."""
    return [
        *all_requests(home, world),
        *ledger_rows(home, world),
        *leftovers(home),
        *difference(home, clean),
    ]


def pending(home: Path) -> int:
    return len(query(home, "SELECT 1 FROM forget_requests WHERE state != 'completed' OR receipt IS NULL"))


def is_behind(home: Path) -> bool:
    """Whether a full build was cut off, or what is published is of an earlier horizon or catalog: it is to be done again."""
    [(published, horizon, due, catalog)] = query(home, "SELECT published, horizon, due, catalog FROM state")
    stated = {} if published is None else json.loads(str(published))
    return due is not None or (stated.get("horizon", 0), stated.get("catalog", 0)) != (horizon or 0, catalog)


def waiting(home: Path) -> int:
    """Deletions that are owed, and rows beyond the horizon: what a worker has yet to do."""
    return pending(home) + sum(len(query(home, f"SELECT 1 FROM {table}")) for table in ("arrivals", "due"))


def all_requests(home: Path, world: World) -> Iterator[str]:
    """Every acknowledged request is known and completed, with the receipt that it first had; and there is no other."""
    held = {str(row[0]): row[1:] for row in query(home, "SELECT request_id, state, receipt FROM forget_requests")}
    public_key = ReceiptSigner.open(home / "receipts.pem").public_keys_pem()
    acknowledged = {answer.request_id for answer in world.answers.values()}
    for request_id in sorted(acknowledged - held.keys()):
        yield f"lost: request {request_id} was acknowledged and is not known"
    for request_id in sorted(held.keys() - acknowledged):
        yield f"request {request_id} is there, and nobody asked for it"
    for request_id in sorted(acknowledged & held.keys()):
        state, receipt = held[request_id]
        if state != "completed" or receipt is None:
            yield f"lost: request {request_id} is {state} and not completed"
        else:
            yield from _receipt(request_id, str(receipt), world.receipts.get(request_id), public_key)


def _receipt(request_id: str, receipt: str, first: str | None, public_key: str) -> Iterator[str]:
    if first == receipt:
        return  # it was verified when it was first seen
    if first is not None:
        yield f"request {request_id} has another receipt than at first"
    try:
        stated = verify(receipt, public_key)["request_id"]
    except ReceiptInvalid as error:
        yield f"the receipt of {request_id} does not hold: {error}"
        return
    if stated != request_id:
        yield f"the receipt of {request_id} is that of {stated}"


def ledger_rows(home: Path, world: World) -> Iterator[str]:
    """The ledger holds what was imported and not forgotten, and no mask is left."""
    found = {(str(row[0]), str(row[1])): (row[2], row[3]) for row in query(home, "SELECT * FROM interactions")}
    if extra := found.items() - world.rows.items():
        yield f"the ledger holds {len(extra)} rows that it should not, of {sorted({pair[0] for pair, _ in extra})}"
    if missing := world.rows.items() - found.items():
        yield f"the ledger lacks {len(missing)} rows, of {sorted({pair[0] for pair, _ in missing})}"
    if masks := query(home, "SELECT kind, key FROM masks"):
        yield f"{len(masks)} masks are left, although no deletion is owed"


def leftovers(home: Path) -> Iterator[str]:
    """Beside the published generation and what it names the store is empty; so is the home, beside what belongs there."""
    store = home / "store"
    active = (store / ACTIVE).read_text().strip()
    manifest = json.loads(_files(home)[f"generations/{active}/{MANIFEST}"])
    allowed = {
        home: _HOME,
        store: _STORE,
        store / "tmp": set(),
        store / "generations": {active},
        store / "adapters": {adapter["digest"] for adapter in manifest["adapters"]},
        store / "memory": {memory["digest"] for memory in manifest["memories"]},
    }
    for folder, names in allowed.items():
        for extra in sorted({path.name for path in folder.iterdir()} - names):
            yield f"left over: {extra} in {folder.relative_to(home.parent)}"
    for directory in sorted(keys_of(home)):
        if not (store / directory).is_dir():
            yield f"left over: the key of {directory}, which is gone"


def difference(home: Path, clean: Path) -> Iterator[str]:
    """Strict exactness: the bytes of the store are those of a clean build."""
    ours, theirs = _files(home), _files(clean)
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        yield f"mismatch: {len(differing)} files are not what a clean build makes, among them {differing[0]}"


def keys_of(home: Path) -> dict[str, bytes]:
    """Of an encrypted store the key of each directory; of another one none."""
    if not (home / STORE_KEY).exists():
        return {}
    wrapping_key = bytes.fromhex((home / STORE_KEY).read_text().strip())
    rows = query(home, "SELECT directory, wrapped_key FROM artifact_keys WHERE directory > ''")
    return {str(directory): unwrap(wrapping_key, bytes.fromhex(str(wrapped))) for directory, wrapped in rows}


def _files(home: Path) -> dict[str, bytes]:
    """What the store's files say, by their names; how it is stored is told by one of them alone."""
    store, keys = home / "store", keys_of(home)
    found = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    del found[FORMAT]
    return {name: _opened(name, content, keys) for name, content in found.items()}


def _opened(name: str, content: bytes, keys: dict[str, bytes]) -> bytes:
    key = keys.get(name.rpartition("/")[0])
    return content if key is None else unseal(key, name, content)

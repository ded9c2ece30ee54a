"""A search that finds nothing is worth something only if it would have found: each erasing step is switched off in turn.

The builder is a fake that records of everybody what the real one records, and makes real files at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.types import Message, Receive, Scope, Send

from adapters_store import (
    DirectoryKeys,
    Erased,
    Folder,
    NotOpened,
    Store,
    Workspace,
    canonical_json,
    digest_of,
    files_holding,
)
from adapters_store.encrypted import Encrypted
from adapters_store.sealing import unseal
from service.building.builder import Built
from service.entrypoints.http.middleware import Observed
from service.entrypoints.telemetry import JsonFormatter
from service.errors import StoreError
from service.forgetting.bell import PollingBell
from service.forgetting.erasure import ErasureAuditor, encodings, needles_of
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner, verify
from service.forgetting.reconcile import Reconciler
from service.forgetting.tombstones import TombstoneFile
from service.ledger import ArtifactKeys, KeyedHashes, Ledger, tables
from service.ledger.database import _empty_wal, _rewrite_file
from service.records import BuildConfig, ForgetRequest, Impression, Interaction, Item, Published, ShardAssignment
from tests import manifests

SIGNER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
SECRET = b"a secret of the tests"
CONFIG = BuildConfig()
CANARY = 'kanarek-7f3a "Zoë" \\ 鳥🐦'
ITEMS = [Item(f"i{number:02}", f"Title {number}") for number in range(20)]


class SmallBuilder:
    """The canary's adapter and memory and everybody else's, and a validation row of each user; no name tells who they are."""

    def __init__(self, ledger: Ledger, store: Store) -> None:
        self.ledger, self.store = ledger, store

    def wipe_forgotten(self) -> None:
        pass

    def make_ahead(self, config: BuildConfig, is_urgent: Callable[[], bool]) -> bool:
        return True

    def build(self, config: BuildConfig) -> Built:
        view = self.ledger.view()
        members: dict[str, list[str]] = {}
        for user in view.interactions:
            members.setdefault("0" if user == CANARY else "1", []).append(user)
        shards = {
            digest_of([name, [[user, len(view.interactions[user])] for user in users]]): name
            for name, users in members.items()
        }
        rows = {digest_of(["row", user]): user for user in view.interactions}
        places = [(user, shards[digest], digest) for digest in shards for user in members[shards[digest]]]
        with self.ledger.read_transaction() as transaction:
            changed = transaction.changed(None, None)
        self.ledger.save_assignments(
            changed, [ShardAssignment(user, user, name, 1, digest) for user, name, digest in places]
        )
        self.ledger.record_partition("p" * 64, ((user, user, name) for user, name, _ in places))
        memories = {digest_of(["memory", digest]): name for digest, name in shards.items()}
        counted = {digest: dict.fromkeys(members[name], 1) for digest, name in memories.items()}
        seen = {digest: members[shards[digest]] for digest in shards}
        self.ledger.record_lineage(view.fence, seen, rows, shards | memories, counted)
        for artifacts, digests in ((self.store.adapters, shards), (self.store.memories, memories)):
            for digest in digests:
                artifacts.add(digest, {"weights": digest.encode()[::-1]})
        stated = manifests.manifest(
            adapters=tuple(manifests.adapter(d, name, self.store.adapters.sums(d)) for d, name in shards.items()),
            memories=tuple(manifests.memory(d, name, self.store.memories.sums(d)) for d, name in memories.items()),
            config=config,
        ).stated()
        files = {"rows.json": canonical_json(sorted(self.rows_in_use(frozenset(rows))))}
        generation = self.store.add_generation(stated, files)
        published = Published(generation, view.fence, config, manifests.MODEL, {}, view.horizon, view.catalog_revision)
        return Built(published, tuple(shards), shards, frozenset(rows), memories)

    def rows_in_use(self, rows: frozenset[str]) -> frozenset[str]:
        return rows


class House:
    """A ledger, a store and all that works on them in one folder, with a published generation that has seen the canary."""

    def __init__(
        self,
        folder: Path,
        ledger: Callable[[str, bytes], Any] = Ledger,
        store: Callable[[Path], Any] = Store,
        builder: type[SmallBuilder] = SmallBuilder,
        url: str | None = None,
        keys: Callable[[Any], DirectoryKeys] | None = None,
    ) -> None:
        """With `keys` of the ledger the store is encrypted."""
        self.folder = folder
        self.ledger = ledger(url or f"sqlite:///{folder}/ledger.sqlite", SECRET)
        plain = folder / "store"
        self.store: Any = store(plain) if keys is None else Store(Encrypted(Folder(plain), keys(self.ledger)))
        self.tombstones = TombstoneFile(folder / "tombstones.jsonl", KeyedHashes(SECRET))
        bell = PollingBell(folder / "lock")
        made = builder(self.ledger, self.store)
        self._reconciler = Reconciler(self.ledger, self.store, made, bell, SIGNER, CONFIG)
        rows = [Interaction(user, item.item_id, True, 5) for user in ("ann", CANARY, "zoe") for item in ITEMS]
        self.ledger.import_data(ITEMS, rows, "movie")
        self._reconciler.reconcile_once()
        given = [Impression(f"{user} was shown", user, ("i01", "i02"), "g", 0, 1.0) for user in ("ann", CANARY)]
        assert self.ledger.impressions.record(given) == 2

    def forget(self) -> str:
        return Intake(self.ledger, SIGNER, self.tombstones).forget(CANARY, None, None).request_id

    def reconcile_once(self) -> None:
        self._reconciler.reconcile_once()

    def rebuild(self) -> None:
        self._reconciler.rebuild(CONFIG)

    def forgotten(self) -> ForgetRequest:
        request_id = self.forget()
        self.reconcile_once()
        request: ForgetRequest = self.ledger.request(request_id)
        return request

    def refused(self) -> str:
        """Why no receipt is signed."""
        request_id = self.forget()
        with pytest.raises(StoreError, match="still there"):
            self.reconcile_once()
        request = self.ledger.request(request_id)
        assert (request.state, request.receipt) == ("failed", None)
        assert self.ledger.mask().adapters  # what has seen the person stays out of use
        return request.error or ""

    def files_with_the_canary(self) -> set[str]:
        return {path.name for path in files_holding(self.folder, needles_of([CANARY])).hits}

    def run(self, statement: str) -> None:
        with closing(sqlite3.connect(self.folder / "ledger.sqlite", isolation_level=None)) as connection:
            connection.execute(statement)


def mentions(ledger: Ledger) -> int:
    """Rows that hold the canary."""
    return sum(ledger.search(CANARY).found.values())


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    if request.param == "SQLite":
        yield None
        return
    with request.getfixturevalue("new_database")() as database:
        yield database


def test_with_every_step_on_no_row_and_no_byte_is_left_and_the_receipt_says_what_was_searched(
    tmp_path: Path, url: str | None
) -> None:
    house = House(tmp_path, url=url)
    assert mentions(house.ledger) > len(ITEMS)
    found = house.ledger.search(CANARY).found
    assert {name: found[name] for name in found if name.startswith(("impressions", "shown_items"))} == {
        "impressions.user_id": 1,
        "impressions.recommendation_id": 1,  # between delimiters
        "shown_items.user_id": 2,
        "shown_items.recommendation_id": 2,
    }
    assert bool(house.files_with_the_canary()) == (url is None)
    request = house.forgotten()
    assert (request.state, mentions(house.ledger)) == ("completed", 0)
    assert house.files_with_the_canary() == set()
    erasure = verify(request.receipt or "", SIGNER.public_key_pem())["erasure"]
    assert erasure["found"] == 0
    assert erasure["files_searched"] > len(house.store.adapters.digests())
    house.ledger.close()


# Rows


@pytest.mark.parametrize(
    "table", ["interactions", "placements", "memberships", "exposures", "impressions", "shown_items"]
)
def test_rows_that_are_not_deleted_are_found_and_no_receipt_is_signed(tmp_path: Path, table: str) -> None:
    house = House(tmp_path)
    house.run(f"CREATE TRIGGER kept BEFORE DELETE ON {table} BEGIN SELECT RAISE(IGNORE); END")
    assert "person in ledger: 1" in house.refused()
    assert mentions(house.ledger)
    assert house.files_with_the_canary()
    house.run("DROP TRIGGER kept")
    assert house.forgotten().state == "completed"  # asked again, it deletes what was left
    assert house.files_with_the_canary() == set()
    house.ledger.close()


@pytest.mark.parametrize("table", [each for each in tables.metadata.sorted_tables if "user_id" in each.c], ids=str)
def test_whoever_lives_again_in_any_table_that_names_people_is_found(tmp_path: Path, table: sa.Table) -> None:
    house = House(tmp_path)
    request = house.forgotten()
    assert ErasureAuditor(house.ledger, house.store).search([request]).found == 0
    with house.ledger._database.write_transaction() as connection:
        connection.execute(sa.insert(table).values(_a_row(table)))
    assert ErasureAuditor(house.ledger, house.store).search([request]).person_in_ledger == 1
    house.ledger.close()


def _a_row(table: sa.Table) -> dict[str, Any]:
    """Of the canary, as no transaction of the ledger's would write it."""
    known = {"user_id": CANARY, "item_id": ITEMS[1].item_id}
    empty = {column.key: column.type.python_type() for column in table.c if not column.nullable}
    return empty | {name: value for name, value in known.items() if name in table.c}


# Bytes that rows leave behind


class DeletesSecurelyAndNoMore(Ledger):
    def erase_traces(self) -> None: ...


class LeavesTheWriteAheadLog(Ledger):
    def erase_traces(self) -> None:
        self._database._insist(_rewrite_file)


class LeavesThePagesAsTheyAre(Ledger):
    def erase_traces(self) -> None:
        self._database._insist(_empty_wal)


class LeavesFreedBytes(LeavesThePagesAsTheyAre):
    def __init__(self, url: str, secret: bytes) -> None:
        super().__init__(url, secret)
        engine = self._database._engine
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA secure_delete=OFF"))
        engine.dispose()


@pytest.mark.parametrize(
    ("ledger", "where"),
    [
        (DeletesSecurelyAndNoMore, "ledger.sqlite-wal"),
        (LeavesTheWriteAheadLog, "ledger.sqlite-wal"),
        (LeavesFreedBytes, "ledger.sqlite"),
    ],
)
def test_bytes_that_the_database_leaves_behind_are_found(tmp_path: Path, ledger: type[Ledger], where: str) -> None:
    house = House(tmp_path, ledger)
    assert house.forgotten().state == "completed"  # no row tells of them
    assert mentions(house.ledger) == 0
    assert where in house.files_with_the_canary()
    house.ledger.close()


@pytest.mark.thorough
def test_secure_deletion_alone_leaves_copies_on_pages_that_were_split_and_rewriting_the_file_does_not(
    tmp_path: Path,
) -> None:
    everyone = [f"kanarek-{number:04}" for number in range(150)]
    items = [Item(f"i{number:02}", f"Title {number}") for number in range(60)]
    rows = [Interaction(user, item.item_id, True, 5) for user in everyone for item in items]
    gone = everyone[::3]
    with LeavesThePagesAsTheyAre(f"sqlite:///{tmp_path}/ledger.sqlite", SECRET) as ledger:
        # In random order and by many imports, each of which sorts its own, so that pages split.
        mixed = random.Random(1).sample(rows, len(rows))
        for first in range(0, len(mixed), 700):
            ledger.import_data(items, mixed[first : first + 700], "movie")
        for user in gone:
            ledger.forget(user, None, None)
        ledger.erase_traces()
        assert files_holding(tmp_path, needles_of(gone)).hits
        Ledger.erase_traces(ledger)
        assert not files_holding(tmp_path, needles_of(gone)).hits


# Artifacts


class KeepsAdapters(Store):
    def erase_except(
        self,
        adapters: Collection[str],
        memories: Collection[str],
        generations: Collection[str],
        ahead: Collection[str] = (),
    ) -> Erased:
        return super().erase_except([*adapters, *self.adapters.digests()], memories, generations, ahead)


class KeepsGenerations(Store):
    def erase_except(
        self,
        adapters: Collection[str],
        memories: Collection[str],
        generations: Collection[str],
        ahead: Collection[str] = (),
    ) -> Erased:
        return super().erase_except(adapters, memories, [*generations, *self.generations()], ahead)


class KeepsMemories(Store):
    def erase_except(
        self,
        adapters: Collection[str],
        memories: Collection[str],
        generations: Collection[str],
        ahead: Collection[str] = (),
    ) -> Erased:
        return super().erase_except(adapters, [*memories, *self.memories.digests()], generations, ahead)


class _KeepsAbandoned(Workspace):
    def erase_abandoned(self) -> int:
        return 0


class KeepsTemporaryFiles(Store):
    def __init__(self, root: Path) -> None:
        super().__init__(Folder(root, _KeepsAbandoned(root / "tmp")))


class ErasesNothing(Store):
    def erase_except(
        self,
        adapters: Collection[str],
        memories: Collection[str],
        generations: Collection[str],
        ahead: Collection[str] = (),
    ) -> Erased:
        return Erased((), (), (), 0)


class _Trash(Workspace):
    def remove(self, path: Path) -> bool:
        trash = self.root.parent / "trash"
        trash.mkdir(exist_ok=True)
        path.rename(trash / path.name)
        return True


class PutsAside(Store):
    def __init__(self, root: Path) -> None:
        super().__init__(Folder(root, _Trash(root / "tmp")))


@pytest.mark.parametrize(
    ("store", "named"),
    [
        (KeepsAdapters, "old adapters: 1"),
        (KeepsMemories, "old memories: 1"),
        (KeepsGenerations, "old generations: 1"),
        (KeepsTemporaryFiles, "abandoned files: 1"),
        (ErasesNothing, "old adapters: 1, old memories: 1, old generations: 1, abandoned files: 1"),
        (PutsAside, "files naming old artifacts: "),
    ],
)
def test_artifacts_that_are_not_erased_are_found_and_no_receipt_is_signed(
    tmp_path: Path, store: type[Store], named: str
) -> None:
    house = House(tmp_path, store=store)
    left_by_the_dead = house.store.root / "tmp" / "1-left"
    left_by_the_dead.mkdir()
    (left_by_the_dead / "weights").write_text(CANARY)
    assert named in house.refused()
    assert house.files_with_the_canary() == ({"weights"} if "abandoned" in named else set())
    house.ledger.close()


class AsksWhileABuildReads(Ledger):
    """Its user asks after a build has read their rows, and before it has recorded what will have seen them."""

    ask: Callable[[], object] | None = None

    def record_lineage(self, *given: Any) -> None:
        if self.ask is not None:
            self.ask()
            self.ask = None
        super().record_lineage(*given)


class KeepsOne(Store):
    kept: Collection[str] = ()

    def erase_except(
        self,
        adapters: Collection[str],
        memories: Collection[str],
        generations: Collection[str],
        ahead: Collection[str] = (),
    ) -> Erased:
        return super().erase_except([*adapters, *self.kept], memories, generations, ahead)


def test_an_adapter_that_was_made_while_its_user_asked_is_searched_for_too(tmp_path: Path) -> None:
    house = House(tmp_path, AsksWhileABuildReads, KeepsOne)
    requests: list[str] = []
    house.ledger.import_data([Item("new", "New")], [Interaction(CANARY, "new", True, 9)], "movie")
    house.reconcile_once()  # serves the new item; the row waits for a full build
    before = house.store.adapters.digests()
    house.ledger.ask = lambda: requests.append(house.forget())
    house.rebuild()
    [late] = set(house.store.adapters.digests()) - set(before)
    assert late in house.ledger.mask().adapters
    house.store.kept = [late]
    with pytest.raises(StoreError, match="old adapters: 1"):
        house.reconcile_once()
    house.store.kept = []
    house.reconcile_once()
    assert house.ledger.request(requests[0]).state == "completed"
    house.ledger.close()


class RemembersRows(SmallBuilder):
    """Goes on using the validation rows of the generation before."""

    def rows_in_use(self, rows: frozenset[str]) -> frozenset[str]:
        active = self.store.active()
        return rows.union(json.loads(self.store.generation(active).read("rows.json"))) if active else rows


@pytest.mark.parametrize("place", ["ledger", "generation"])
def test_a_created_item_that_nobodys_row_names_is_found_and_no_receipt_is_signed(tmp_path: Path, place: str) -> None:
    class Lists(SmallBuilder):
        def build(self, config: BuildConfig) -> Built:
            built = super().build(config)
            stored = self.store.generation(built.generation)
            ids = [item.item_id for item in self.ledger.items()] + ["their own words"] * (place == "generation")
            files = {"rows.json": stored.read("rows.json"), "items.json": canonical_json(ids)}
            bare = {name: value for name, value in stored.manifest.items() if name != "files"}
            generation = self.store.add_generation(bare, files)
            return replace(built, published=replace(built.published, generation=generation))

    house = House(tmp_path, builder=Lists)
    if place == "ledger":
        house.ledger.import_data([Item("their own words", "x", created=True)], [], "movie")
    assert "unnamed items: 1" in house.refused()


def test_a_validation_row_that_stays_in_use_is_found_and_no_receipt_is_signed(tmp_path: Path) -> None:
    house = House(tmp_path, builder=RemembersRows)
    assert "masked rows in use: 1" in house.refused()
    house.ledger.close()


# Keys of an encrypted store

WRAPPING_KEY = bytes(range(32))


def wrapped_keys(ledger: Ledger) -> ArtifactKeys:
    return ledger.artifact_keys(WRAPPING_KEY)


class KeepsKeys(ArtifactKeys):
    def destroy(self, directories: Collection[str]) -> None: ...


def in_the_table(house: House) -> dict[str, str]:
    """Directory -> its wrapped key, read past the ledger."""
    with house.ledger._database.read_transaction() as connection:
        rows = connection.execute(sa.text("SELECT directory, wrapped_key FROM artifact_keys"))
        return {row.directory: row.wrapped_key for row in rows}


def test_what_disks_keep_of_an_encrypted_store_opens_with_nothing_that_is_left(tmp_path: Path, url: str | None) -> None:
    house = House(tmp_path, url=url, keys=wrapped_keys)
    store = tmp_path / "store"
    kept = {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    before = in_the_table(house)
    request = house.forgotten()
    erasure = verify(request.receipt or "", SIGNER.public_key_pem())["erasure"]
    assert (erasure["found"], erasure["keys"]) == (0, 0)
    after, keys = in_the_table(house), wrapped_keys(house.ledger)
    gone = {directory: wrapped for directory, wrapped in before.items() if directory not in after}
    assert {directory.partition("/")[0] for directory in gone} == {"adapters", "memory", "generations"}
    sealed = {path: content for path, content in kept.items() if path.rpartition("/")[0] in gone}
    assert len(sealed) >= 2 * len(gone)
    for path, content in sealed.items():
        for key in (WRAPPING_KEY, *(keys.find(directory) or b"" for directory in after)):
            with pytest.raises(NotOpened):
                unseal(key, path, content)
    assert not files_holding(tmp_path, [wrapped.encode() for wrapped in gone.values()]).hits
    house.ledger.close()


def test_a_receipt_of_a_plain_store_says_nothing_of_keys(tmp_path: Path) -> None:
    house = House(tmp_path)
    erasure = verify(house.forgotten().receipt or "", SIGNER.public_key_pem())["erasure"]
    assert not erasure.keys() & {"keys", "versions"}
    house.ledger.close()


def test_keys_that_are_not_destroyed_are_found_and_no_receipt_is_signed(tmp_path: Path) -> None:
    house = House(tmp_path, keys=lambda ledger: KeepsKeys(ledger._database, WRAPPING_KEY))
    assert "abandoned files: 3, keys: 3" in house.refused()
    house.ledger.close()


def test_a_key_that_comes_back_is_found_by_whoever_looks_again(tmp_path: Path) -> None:
    """As with an old ledger that was restored."""
    house = House(tmp_path, keys=wrapped_keys)
    before = in_the_table(house)
    request = house.forgotten()
    assert ErasureAuditor(house.ledger, house.store).search([request]).found == 0
    [directory] = [each for each in before.keys() - in_the_table(house).keys() if each.startswith("adapters/")]
    house.run(f"INSERT INTO artifact_keys VALUES ('{directory}', '{before[directory]}')")
    found = ErasureAuditor(house.ledger, house.store).search([request])
    assert (found.keys, found.found) == (1, 1)
    house.reconcile_once()
    assert ErasureAuditor(house.ledger, house.store).search([request]).found == 0
    house.ledger.close()


# Logs


class Ignores:
    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None: ...


async def _fails_quoting_its_input(_scope: Scope, _receive: Receive, _send: Send) -> None:
    try:
        raise KeyError(CANARY)
    except KeyError as error:
        raise ValueError(f"cannot score {CANARY}") from error


async def _receives() -> Message:
    return {"type": "http.request", "body": b""}


async def _sends(_message: Message) -> None: ...


def _log_a_failure(file: Path, formatter: logging.Formatter) -> str:
    handler = logging.FileHandler(file)
    handler.setFormatter(formatter)
    logger = logging.getLogger("service.entrypoints.http.middleware")
    logger.addHandler(handler)
    scope = {"type": "http", "method": "GET", "path": f"/{CANARY}", "headers": [], "query_string": CANARY.encode()}
    asyncio.run(Observed(_fails_quoting_its_input, Ignores())(scope, _receives, _sends))
    logger.removeHandler(handler)
    handler.close()
    return file.read_text()


@pytest.mark.parametrize(("formatter", "hits"), [(JsonFormatter, 0), (logging.Formatter, 1)])
def test_a_log_without_redaction_is_found(tmp_path: Path, formatter: type[logging.Formatter], hits: int) -> None:
    logged = _log_a_failure(tmp_path / "server.log", formatter())
    assert "unexpected failure" in logged
    assert "_fails_quoting_its_input" in logged  # where it failed is told either way
    assert len(files_holding(tmp_path, needles_of([CANARY])).hits) == hits


# The search itself


@pytest.mark.parametrize("needle", sorted(set(encodings(CANARY))))
def test_every_form_of_a_text_is_found_wherever_it_lies(tmp_path: Path, needle: bytes) -> None:
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "empty").touch()
    hidden = tmp_path / "deep" / "down" / ".hidden"
    hidden.write_bytes(bytes(100_000) + needle)
    search = files_holding(tmp_path, needles_of([CANARY]))
    assert (search.hits, search.files, search.bytes) == ((hidden,), 2, 100_000 + len(needle))
    hidden.write_bytes(bytes(100_000) + needle[:-1])
    assert not files_holding(tmp_path, [needle]).hits


def test_the_name_of_a_file_is_searched_too(tmp_path: Path) -> None:
    (tmp_path / "kanarek").mkdir()
    (tmp_path / "kanarek" / "empty").touch()
    assert len(files_holding(tmp_path, needles_of(["kanarek"])).hits) == 1
    assert not files_holding(tmp_path, needles_of(["canary"])).hits

"""Whatever is owed gets done, whatever stops it in the middle. The builder is a fake that makes real files at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters_store import Store, StoreFailure, canonical_json, digest_of
from service.building.builder import Built
from service.errors import LedgerUnavailable, LetheError, StoreError
from service.forgetting.bell import PollingBell
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner, verify
from service.forgetting.reconcile import GenerationBuilder, Reconciler
from service.forgetting.tombstones import TombstoneFile
from service.ledger import KeyedHashes, Ledger
from service.records import BuildConfig, Interaction, Item, Published
from tests import manifests

SIGNER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
SECRET = b"a secret of the tests"
CONFIG = BuildConfig(epochs=7)
ITEMS = [Item(f"i{number}", f"Title {number}") for number in range(3)]
USERS = ("ann", "bob", "cid", "dee", "eve", "fay")
SHARDS = {"ann": "00", "bob": "00", "cid": "01", "dee": "01", "eve": "10", "fay": "11"}
DEADLINE = 20.0  # seconds


def nothing() -> None:
    return None


class FakeBuilder:
    """A generation whose adapters are their shard's rows; `during` happens when the view is read and nothing is made."""

    def __init__(self, ledger: Ledger, store: Store, during: Callable[[], object] = nothing) -> None:
        self._ledger, self._store, self._during = ledger, store, during
        self.configs: list[BuildConfig] = []
        self.wiped = threading.Event()

    def wipe_forgotten(self) -> None:
        self.wiped.set()

    def make_ahead(self, config: BuildConfig, is_urgent: Callable[[], bool]) -> bool:
        return True

    def build(self, config: BuildConfig) -> Built:
        self.configs.append(config)
        view = self._ledger.view()
        members: dict[str, list[str]] = {}
        for user in view.interactions:
            members.setdefault(SHARDS[user], []).append(user)
        content = {
            name: [asdict(row) for u in users for row in view.interactions[u]] for name, users in members.items()
        }
        digests = {name: digest_of(rows) for name, rows in sorted(content.items())}
        rows = {f"row-{user}": user for user in view.interactions}
        self._ledger.record_lineage(
            view.fence,
            {digest: members[name] for name, digest in digests.items()},
            rows,
            {digest: name for name, digest in digests.items()},
        )
        self._during()
        for name, digest in digests.items():
            self._store.adapters.add(digest, {"weights": canonical_json(content[name])})
        adapters = tuple(
            manifests.adapter(digest, name, self._store.adapters.sums(digest)) for name, digest in digests.items()
        )
        stated = manifests.manifest(adapters=adapters, config=config).stated()
        generation = self._store.add_generation(stated, {"rows.json": canonical_json(sorted(rows))})
        shards = {digest: name for name, digest in digests.items()}
        published = Published(generation, view.fence, config, manifests.MODEL, {}, view.horizon, view.catalog_revision)
        return Built(published, tuple(digests.values()), shards, frozenset(rows), {})


class World:
    """A ledger and a store in one folder, with a generation published from them."""

    def __init__(self, folder: Path, users: tuple[str, ...] = USERS) -> None:
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite", SECRET)
        self.store = Store(folder / "store")
        self.tombstones = TombstoneFile(folder / "tombstones.jsonl", KeyedHashes(SECRET))
        self.bell = PollingBell(folder / "lock", interval=0.05)
        rows = [Interaction(user, item.item_id, True, 5) for user in users for item in ITEMS]
        self.ledger.import_data(ITEMS, rows, "movie")
        self.reconciler().reconcile_once()

    def reconciler(
        self, builder: GenerationBuilder | None = None, ledger: Ledger | None = None, store: Store | None = None
    ) -> Reconciler:
        ledger, store = ledger or self.ledger, store or self.store
        builder = builder or FakeBuilder(ledger, store)
        return Reconciler(ledger, store, builder, self.bell, SIGNER, CONFIG)

    def forget(self, user: str) -> str:
        return Intake(self.ledger, SIGNER, self.tombstones).forget(user, None, None).request_id

    def adapters(self) -> dict[str, str]:
        """Name of the shard -> its adapter, as published."""
        generation = self.ledger.generation()
        assert generation is not None
        return {a["shard"]: a["digest"] for a in self.store.generation(generation).manifest["adapters"]}

    def receipt(self, request_id: str) -> dict[str, Any]:
        signed = self.ledger.request(request_id).receipt
        assert signed is not None
        return verify(signed, SIGNER.public_key_pem())

    def is_settled(self) -> bool:
        """Nothing owed, nothing masked, and the store holds what is published and nothing else."""
        mask = self.ledger.mask()
        left = {path.name for path in (self.store.root / "tmp").iterdir()}
        return (
            not self.ledger.pending()
            and mask.empty
            and not left
            and self.store.generations() == [mask.generation] == [self.store.active()]
            and self.store.adapters.digests() == sorted(self.adapters().values())
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def clean_generation(folder: Path, *users: str) -> str | None:
    folder.mkdir()
    return World(folder, users).ledger.generation()


# One deletion, and several


def test_a_deletion_replaces_its_shard_and_nothing_else(world: World, tmp_path: Path) -> None:
    before = world.adapters()
    first = world.ledger.generation()
    request = world.forget("ann")
    assert world.ledger.mask().adapters == {before["00"]}
    assert world.reconciler().reconcile_once()
    after = world.adapters()
    assert {name for name in after if after[name] != before[name]} == {"00"}
    assert world.is_settled()
    assert world.ledger.generation() == clean_generation(tmp_path / "clean", *USERS[1:])
    receipt = world.receipt(request)
    assert receipt["adapters"] == {before["00"]: after["00"]}
    assert receipt["generation"] == {"before": first, "after": world.ledger.generation()}
    assert receipt["held"] is True


def test_several_owed_deletions_cost_one_build(world: World) -> None:
    requests = [world.forget(user) for user in ("ann", "cid", "eve")]
    builder = FakeBuilder(world.ledger, world.store)
    reconciler = world.reconciler(builder)
    assert reconciler.reconcile_once()
    assert not reconciler.reconcile_once()
    assert len(builder.configs) == 1
    assert [world.ledger.request(request).state for request in requests] == ["completed"] * 3
    assert world.is_settled()


def test_a_shard_without_anybody_left_is_replaced_by_nothing(world: World) -> None:
    gone = world.adapters()["10"]
    request = world.forget("eve")
    world.reconciler().reconcile_once()
    assert world.receipt(request)["adapters"] == {gone: None}


def test_everybody_may_be_forgotten(world: World) -> None:
    requests = [world.forget(user) for user in USERS]
    assert world.reconciler().reconcile_once()
    assert world.adapters() == {}
    assert world.is_settled()
    assert all(world.receipt(request)["held"] for request in requests)


def test_a_deletion_that_comes_during_a_build_stays_owed_and_masked_until_the_next(world: World) -> None:
    before = world.adapters()
    late: list[str] = []
    first = world.forget("ann")
    world.reconciler(FakeBuilder(world.ledger, world.store, lambda: late.append(world.forget("bob")))).reconcile_once()
    assert world.ledger.request(first).state == "completed"
    assert world.ledger.request(late[0]).state == "accepted"
    published = world.adapters()
    assert published["00"] in world.ledger.mask().adapters
    assert "row-bob" in world.ledger.mask().rows

    assert world.reconciler().reconcile_once()
    assert world.is_settled()
    # Bob was alone in that shard by then, so that nothing stands in the place of either adapter.
    assert world.receipt(late[0])["adapters"] == {before["00"]: None, published["00"]: None}


def test_of_two_deletions_in_one_shard_the_late_one_names_both_adapters_and_their_successor(world: World) -> None:
    before = world.adapters()
    world.forget("eve")
    late: list[str] = []
    world.reconciler(FakeBuilder(world.ledger, world.store, lambda: late.append(world.forget("ann")))).reconcile_once()
    world.reconciler().reconcile_once()
    assert world.receipt(late[0])["adapters"] == {before["00"]: world.adapters()["00"]}


def test_a_build_keeps_to_the_configuration_of_what_is_published(world: World) -> None:
    world.forget("ann")
    builder = FakeBuilder(world.ledger, world.store)
    Reconciler(world.ledger, world.store, builder, world.bell, SIGNER, BuildConfig(epochs=1)).reconcile_once()
    assert builder.configs == [CONFIG]


# What goes wrong


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OSError(28, "No space left", "/home/ann/weights"), "OSError"),
        (LedgerUnavailable("the database cannot be asked"), "the database cannot be asked"),
        (StoreFailure("the disk is full"), "the disk is full"),
    ],
)
def test_a_failed_build_says_why_without_naming_anybody_and_the_next_pass_completes(
    world: World, failure: Exception, said: str
) -> None:
    request = world.forget("ann")

    def fail() -> None:
        raise failure

    with pytest.raises(type(failure)):
        world.reconciler(FakeBuilder(world.ledger, world.store, fail)).reconcile_once()
    failed = world.ledger.request(request)
    assert (failed.state, failed.error, failed.attempts) == ("failed", said, 1)
    assert world.ledger.mask().adapters == set(failed.affected_shards)
    assert world.reconciler().reconcile_once()
    completed = world.ledger.request(request)
    assert (completed.state, completed.error, completed.attempts) == ("completed", None, 2)
    assert world.is_settled()


class Crash(BaseException):
    """The process is gone: no handler may take this for an error that it knows."""


class Fuse:
    """Burns down with every step, and then there is a crash."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def burn(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Crash


class Burns(Protocol):
    """Is told of every step."""

    def burn(self) -> None: ...


class Fragile:
    """Passes every call on, as long as the fuse burns."""

    def __init__(self, inner: object, fuse: Burns) -> None:
        self._inner, self._fuse = inner, fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def step(*given: Any, **named: Any) -> Any:
            self._fuse.burn()
            return found(*given, **named)

        return step


@pytest.mark.thorough
def test_after_a_crash_between_any_two_steps_the_next_process_completes_to_the_same_bytes(tmp_path: Path) -> None:
    expected = clean_generation(tmp_path / "clean", "bob", "cid", "dee", "eve")
    steps = 0
    while not _crashes_and_recovers(tmp_path / str(steps), steps, expected):
        steps += 1
    assert steps > 15


def _crashes_and_recovers(folder: Path, steps: int, expected: str | None) -> bool:
    """Whether there was no crash any more, because the work has no more steps."""
    folder.mkdir()
    world = World(folder)
    before = world.adapters()
    first = world.ledger.generation()
    requests = {user: world.forget(user) for user in ("ann", "fay")}
    fuse = Fuse(steps)
    crashing: Any = (Fragile(world.ledger, fuse), Fragile(world.store, fuse))
    crashed = False
    try:
        world.reconciler(None, *crashing).reconcile_once()
    except Crash:
        crashed = True
    pending = {request.request_id for request in world.ledger.pending()}
    receipts = {user: world.ledger.request(request).receipt for user, request in requests.items()}
    assert all((requests[user] in pending) == (receipt is None) for user, receipt in receipts.items())

    next_process = world.reconciler()
    while next_process.reconcile_once():
        pass
    assert world.is_settled()
    assert world.ledger.generation() == expected
    assert world.receipt(requests["ann"])["adapters"] == {before["00"]: world.adapters()["00"]}
    assert world.receipt(requests["fay"])["adapters"] == {before["11"]: None}
    assert {world.receipt(request)["generation"]["before"] for request in requests.values()} == {first}
    final = {user: world.ledger.request(request).receipt for user, request in requests.items()}
    assert {user: receipt for user, receipt in receipts.items() if receipt} == {
        user: final[user] for user, receipt in receipts.items() if receipt
    }
    world.ledger.close()
    return not crashed


def test_a_slow_build_never_brings_back_whom_a_faster_one_has_forgotten(world: World) -> None:
    """Two workers at once: a courtesy lock may be lost, and then only the ledger stands between them."""
    requests: list[str] = []

    def meanwhile() -> None:
        requests.append(world.forget("bob"))
        world.reconciler().reconcile_once()

    world.forget("eve")
    slow = world.reconciler(FakeBuilder(world.ledger, world.store, meanwhile))
    with pytest.raises(StoreError, match="later deletions"):
        slow.reconcile_once()
    assert world.ledger.request(requests[0]).state == "completed"
    published = world.ledger.generation()
    assert world.reconciler().reconcile_once()
    assert world.ledger.generation() == published
    assert world.is_settled()
    files = [path.read_bytes() for path in world.store.root.rglob("*") if path.is_file()]
    assert files
    assert not any(b"bob" in content for content in files if b"row-" not in content)


@pytest.mark.parametrize("damage", ["adapter", "generation", "active", "torn active"])
def test_what_was_damaged_is_built_again_when_a_worker_starts(world: World, damage: str) -> None:
    generation, adapters = world.ledger.generation(), world.adapters()
    assert generation is not None
    root = world.store.root
    match damage:
        case "adapter":
            (root / "adapters" / adapters["01"] / "weights").write_bytes(b"rotten")
        case "generation":
            (root / "generations" / generation / "rows.json").write_bytes(b"rotten")
        case "active":
            (root / "ACTIVE").unlink()
        case "torn active":
            (root / "ACTIVE").write_bytes(b"\xff\x00")
    assert world.reconciler().reconcile_once()
    assert world.ledger.generation() == generation
    assert world.adapters() == adapters
    assert world.is_settled()
    assert not world.reconciler().reconcile_once()


def test_a_sound_world_is_left_alone(world: World) -> None:
    builder = FakeBuilder(world.ledger, world.store)
    assert not world.reconciler(builder).reconcile_once()
    assert builder.configs == []


def test_an_empty_ledger_asks_for_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, ())
    assert world.ledger.generation() is None


# The worker's loop


class Failing:
    """A builder that cannot, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)

    def wipe_forgotten(self) -> None:
        pass

    def make_ahead(self, config: BuildConfig, is_urgent: Callable[[], bool]) -> bool:
        return True

    def build(self, _config: BuildConfig) -> Built:
        self.asked.release()
        raise LetheError("not today")


def run_in_thread(reconciler: Reconciler, stop: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=reconciler.run, args=(stop, 0.01), daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(DEADLINE)
    return not thread.is_alive()


def test_a_worker_whose_work_another_one_has_wipes_what_it_read_all_the_same(world: World) -> None:
    builder, stop = FakeBuilder(world.ledger, world.store), threading.Event()
    with world.bell.courtesy_lock() as held:
        assert held
        thread = run_in_thread(world.reconciler(builder), stop)
        assert builder.wiped.wait(DEADLINE)
        stop.set()
        assert ended(thread)
    assert builder.configs == []


def test_the_loop_settles_what_comes_and_ends_when_it_is_told_to(world: World) -> None:
    stop = threading.Event()
    thread = run_in_thread(world.reconciler(), stop)
    request = world.forget("ann")
    done = threading.Event()
    watch = threading.Timer(DEADLINE, done.set)
    watch.start()
    while world.ledger.request(request).state != "completed" and not done.is_set():
        world.bell.ring()
        done.wait(0.01)
    watch.cancel()
    stop.set()
    world.bell.ring()
    assert ended(thread)
    assert world.is_settled()


def test_the_loop_tries_again_and_ends_although_it_keeps_failing(world: World) -> None:
    stop, failing = threading.Event(), Failing()
    world.forget("ann")
    thread = run_in_thread(world.reconciler(failing), stop)
    assert all(failing.asked.acquire(timeout=DEADLINE) for _ in range(3))
    stop.set()
    assert ended(thread)
    assert world.ledger.pending()[0].state == "failed"


def test_only_one_of_two_workers_is_at_it(world: World) -> None:
    stop, failing = threading.Event(), Failing()
    world.forget("ann")
    with world.bell.courtesy_lock() as held:
        assert held
        thread = run_in_thread(world.reconciler(failing), stop)
        assert not failing.asked.acquire(timeout=0.2)
    assert failing.asked.acquire(timeout=DEADLINE)
    stop.set()
    assert ended(thread)


# Nothing held


def test_a_stranger_gets_a_completed_receipt_that_says_that_nothing_was_held(world: World) -> None:
    request = world.forget("nobody")
    answer = world.ledger.request(request)
    assert (answer.state, answer.affected_shards) == ("completed", ())
    receipt = world.receipt(request)
    assert receipt["held"] is False
    assert receipt["adapters"] == {}
    assert "nobody" not in json.dumps(receipt)
    assert not world.reconciler().reconcile_once()

"""No deletion is lost: full, torn and read-only disks, workers that race, a Redis that dies, a clock that is set back.

Real ledgers and stores; the builder is a fake that makes real files at once.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from adapters_store import DamagedArtifact, Store, StoreFailure
from service.entrypoints.http.problems import problem_from
from service.errors import LedgerUnavailable, LetheError, SecretChanged, StoreError
from service.forgetting.bell import LOCK, RedisBell
from service.forgetting.intake import Intake
from service.forgetting.reconcile import GenerationBuilder, Reconciler
from service.forgetting.tombstones import TombstoneFile
from service.ledger import KeyedHashes, Ledger, rekey
from service.records import Tombstone
from tests.disks import Disk, small_disk

from .test_bell import Server, eventually, server
from .test_reconcile import (
    CONFIG,
    SECRET,
    SIGNER,
    USERS,
    Crash,
    FakeBuilder,
    Fragile,
    World,
    clean_generation,
    world,
)

pytestmark = pytest.mark.thorough

__all__ = ["server", "world"]  # fixtures, which pytest finds here by their names

DAY = 86_400.0


def reconcile_once(reconciler: Reconciler) -> None:
    while reconciler.reconcile_once():
        pass


# A full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", "3m") as mounted:
        yield mounted


def with_store_on(disk: Disk, folder: Path) -> World:
    """A world whose store alone is on that disk."""
    (folder / "world").mkdir()
    (folder / "world" / "store").symlink_to(disk.path)
    return World(folder / "world")


def test_a_deletion_whose_store_is_full_says_so_and_is_completed_once_there_is_room(disk: Disk, tmp_path: Path) -> None:
    world = with_store_on(disk, tmp_path)
    disk.fill()
    request = world.forget("ann")
    reconciler = world.reconciler()
    with pytest.raises(StoreFailure, match="disk is full"):
        reconciler.reconcile_once()
    failed = world.ledger.request(request)
    assert (failed.state, failed.attempts) == ("failed", 1)
    assert "free some space" in str(failed.error)
    assert str(tmp_path) not in str(failed.error)
    assert world.ledger.mask().adapters == set(failed.affected_shards)
    assert list((disk.path / "tmp").iterdir()) == []
    disk.make_room()
    reconcile_once(reconciler)
    assert world.is_settled()
    assert world.ledger.generation() == clean_generation(tmp_path / "clean", *USERS[1:])


def test_a_ledger_that_is_full_refuses_a_deletion_as_a_whole_and_takes_it_once_there_is_room(
    disk: Disk, tmp_path: Path
) -> None:
    world = World(disk.path)
    held, mask = world.ledger.counts(), world.ledger.mask()
    disk.fill()
    with pytest.raises(LedgerUnavailable, match="FULL") as refused:
        world.forget("ann")
    assert problem_from(refused.value).status_code == 503
    assert (world.ledger.counts(), world.ledger.mask(), world.ledger.pending()) == (held, mask, [])
    assert world.tombstones.standing() == []
    disk.make_room()
    request = world.forget("ann")
    reconcile_once(world.reconciler())
    assert world.receipt(request)["held"] is True
    assert world.is_settled()
    assert world.ledger.generation() == clean_generation(tmp_path / "clean", *USERS[1:])


@pytest.mark.parametrize("stage", ["before the work", "during the build"])
def test_a_ledger_that_fills_up_after_a_deletion_was_accepted_still_owes_and_masks_it(
    disk: Disk, tmp_path: Path, stage: str
) -> None:
    world = World(disk.path)
    request = world.forget("ann")
    masked = world.ledger.mask().adapters
    assert masked
    if stage == "before the work":
        disk.fill()
        reconciler = world.reconciler()
    else:
        reconciler = world.reconciler(FakeBuilder(world.ledger, world.store, disk.fill))
    with pytest.raises((LedgerUnavailable, StoreFailure)):
        reconciler.reconcile_once()
    assert [pending.request_id for pending in world.ledger.pending()] == [request]
    assert world.ledger.mask().adapters == masked
    disk.make_room()
    reconcile_once(world.reconciler())
    assert world.receipt(request)["held"] is True
    assert world.is_settled()
    assert world.ledger.generation() == clean_generation(tmp_path / "clean", *USERS[1:])


def test_a_deletion_is_not_confirmed_while_its_tombstone_finds_no_room_and_asking_again_confirms_the_same(
    world: World, disk: Disk
) -> None:
    path = disk.path / "tombstones.jsonl"
    tombstones = TombstoneFile(path, KeyedHashes(SECRET))
    others = almost_a_page_of_tombstones(tombstones, path)
    intake = Intake(world.ledger, SIGNER, tombstones)
    disk.fill()
    with pytest.raises(StoreError, match="make room") as refused:
        intake.forget("ann", None, None)
    assert problem_from(refused.value).status_code == 503
    assert path.read_bytes()[-1:] != b"\n", "a part of the line found room"
    [pending] = world.ledger.pending()
    assert world.ledger.mask().adapters == set(pending.affected_shards)
    assert TombstoneFile(path, KeyedHashes(SECRET)).standing() == others
    disk.make_room()
    assert intake.forget("ann", None, None).request_id == pending.request_id
    assert TombstoneFile(path, KeyedHashes(SECRET)).standing() == [
        *others,
        *world.ledger.tombstones(pending.request_id),
    ]


def almost_a_page_of_tombstones(file: TombstoneFile, path: Path) -> list[Tombstone]:
    """Until the rest of the file's last page is too short for one more: the next one would be torn on a full disk."""
    stones: list[Tombstone] = []
    line = 0
    while not stones or path.stat().st_size + line <= 4096:
        before = path.stat().st_size if stones else 0
        stones.append(Tombstone(f"{len(stones):064x}", "*", f"{len(stones):032x}", 1))
        file.add_tombstones(stones[-1:])
        line = path.stat().st_size - before
    assert path.stat().st_size < 4096
    return stones


def test_whom_the_tombstone_file_had_no_room_for_is_in_it_when_they_ask_again_after_the_work_was_done(
    world: World, disk: Disk
) -> None:
    tombstones = TombstoneFile(disk.path / "tombstones.jsonl", KeyedHashes(SECRET))
    intake = Intake(world.ledger, SIGNER, tombstones)
    disk.fill()
    with pytest.raises(StoreError):
        intake.forget("ann", None, None)
    reconcile_once(world.reconciler())
    assert world.is_settled()
    disk.make_room()
    again = intake.forget("ann", None, None)
    assert again.state == "completed"
    assert [stone.subject for stone in tombstones.standing()] == [world.ledger.subject("ann")]


# A read-only disk


def test_a_deletion_whose_store_is_read_only_says_so_and_is_completed_once_it_is_writable(
    disk: Disk, tmp_path: Path
) -> None:
    world = with_store_on(disk, tmp_path)
    disk.make_read_only()
    request = world.forget("ann")
    reconciler = world.reconciler()
    with pytest.raises(StoreFailure, match="read-only"):
        reconciler.reconcile_once()
    failed = world.ledger.request(request)
    assert failed.state == "failed"
    assert "mount it for writing" in str(failed.error)
    assert str(tmp_path) not in str(failed.error)
    assert world.ledger.mask().adapters == set(failed.affected_shards)
    disk.make_writable()
    reconcile_once(reconciler)
    assert world.is_settled()
    assert world.ledger.generation() == clean_generation(tmp_path / "clean", *USERS[1:])


# Torn files

TEARS: Mapping[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[: len(content) // 2],
    "one bit flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "emptied": lambda _: b"",
    "zeroed": lambda content: bytes(len(content)),
}
FILES = (
    "adapters/{adapter}/weights",
    "adapters/{adapter}/SHA256SUMS",
    "generations/{generation}/rows.json",
    "generations/{generation}/manifest.json",
    "ACTIVE",
)


def bytes_under(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def is_served(world: World) -> bool:
    """Whether what a server would load is there, sound."""
    try:
        world.ledger.mask()
        return all(world.store.adapters.path(digest) for digest in world.adapters().values())
    except DamagedArtifact:
        return False


@pytest.mark.parametrize("file", FILES)
def test_a_torn_file_is_not_served_and_made_again_to_the_same_bytes(world: World, file: str) -> None:
    generation = str(world.ledger.generation())
    path = world.store.root / file.format(adapter=world.adapters()["01"], generation=generation)
    sound = bytes_under(world.store.root)
    for tear, torn in TEARS.items():
        path.write_bytes(torn(path.read_bytes()))
        assert is_served(world) is (file == "ACTIVE"), tear  # what is served is what the ledger names
        reconcile_once(world.reconciler())
        assert bytes_under(world.store.root) == sound, tear
        assert world.ledger.generation() == generation
        assert world.is_settled()


# Workers without a lock


class UnguardedBell:
    """Lets everybody work at once, as a Redis does that forgets its lock."""

    def ring(self) -> None:
        """Nobody waits."""

    def wait(self, _timeout: float) -> bool:
        return True

    def courtesy_lock(self) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def close(self) -> None:
        """Nothing is open."""


class Turns:
    """Threads of which one runs at a time: at each step, a chance of a known seed says whether and to whom it hands over."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        # Of rare changes, too: most races want one of them to do much while the other waits.
        self._change = self.chance.choice([0.03, 0.1, 0.3])
        self._names: list[str] = []
        self._running = ""
        self._handed_over = threading.Condition()
        self._own = threading.local()
        self._failures: list[BaseException] = []

    def burn(self) -> None:
        """A step of one of the threads, of which others know nothing."""
        name: str | None = getattr(self._own, "name", None)
        if name is not None:
            with self._handed_over:
                self._hand_over()
                self._await_turn(name)

    def run(self, works: Mapping[str, Callable[[], None]]) -> None:
        self._names = list(works)
        threads = [threading.Thread(target=self._run_one, args=work, daemon=True) for work in works.items()]
        for thread in threads:
            thread.start()
        with self._handed_over:
            self._hand_over()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        if self._failures:
            raise self._failures[0]

    def _run_one(self, name: str, work: Callable[[], None]) -> None:
        self._own.name = name
        with self._handed_over:
            self._await_turn(name)
        try:
            work()
        except BaseException as failure:  # noqa: BLE001 - raised again where the test runs
            self._failures.append(failure)
        with self._handed_over:
            self._names.remove(name)
            self._hand_over()

    def _hand_over(self) -> None:
        if self._names and (self._running not in self._names or self.chance.random() < self._change):
            self._running = self.chance.choice(self._names)
            self._handed_over.notify_all()

    def _await_turn(self, name: str) -> None:
        assert self._handed_over.wait_for(lambda: self._running == name, 60)


_STEPS = ("lethe.store.erasing", "lethe.store.before_swap", "lethe.store.after_swap")  # where no lock is held
_taking_turns: list[Turns] = []


def _take_turns(event: str, _arguments: object) -> None:
    if event in _STEPS:
        for turns in _taking_turns:
            turns.burn()


sys.addaudithook(_take_turns)  # for good, so it looks at a list


class CheckingStore(Store):
    """Asks for every adapter before it takes a generation, as a real build does for its manifest."""

    def add_generation(self, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
        for adapter in manifest["adapters"]:
            self.adapters.sums(adapter["digest"])
        return super().add_generation(manifest, files)


class Race:
    """Two workers without a lock, and people who ask to be forgotten meanwhile. Every call to ledger or store is a step."""

    FORGOTTEN = ("fay", "ann", "bob", "cid")  # bob stays alone in ann's shard, for a time

    def __init__(self, folder: Path, seed: int) -> None:
        self.world = World(folder)
        self.turns = Turns(seed)
        self.requests: dict[str, str] = {}
        self._all_asked = False

    def run(self) -> None:
        _taking_turns.append(self.turns)
        self.turns.run({"one": self._work, "other": self._work, "people": self._ask})
        _taking_turns.remove(self.turns)

    def _work(self) -> None:
        ledger: Any = Fragile(self.world.ledger, self.turns)
        store: Any = Fragile(CheckingStore(self.world.store.root), self.turns)
        builder: Any = FakeBuilder(ledger, store)
        reconciler = Reconciler(ledger, store, builder, UnguardedBell(), SIGNER, CONFIG)
        idle = False
        while not idle:
            last = self._all_asked
            with suppress(LetheError, StoreFailure):  # as the worker's loop does
                idle = not reconciler.reconcile_once() and last
            self.turns.burn()

    def _ask(self) -> None:
        for user in self.FORGOTTEN:
            for _ in range(self.turns.chance.randrange(25)):
                self.turns.burn()
            self.requests[user] = self.world.forget(user)
            assert self.used_of(self.requests) == []
        self._all_asked = True

    def used_of(self, users: Mapping[str, str]) -> list[str]:
        """Who of these has been seen by something that is published and not masked."""
        mask = self.world.ledger.mask()
        with suppress(StoreFailure):  # then nothing is served
            published = self.world.store.generation(str(mask.generation))
            adapters = {adapter["digest"] for adapter in published.manifest["adapters"]} - mask.adapters
            content = b"".join((self.world.store.adapters.path(digest) / "weights").read_bytes() for digest in adapters)
            rows = set(json.loads(published.read("rows.json"))) - mask.rows
            return [user for user in users if f'"{user}"'.encode() in content or f"row-{user}" in rows]
        return []


def race_and_check(folder: Path, seed: int, expected: str | None) -> None:
    folder.mkdir()
    race = Race(folder, seed)
    before = race.world.adapters()
    race.run()
    world = race.world
    assert world.is_settled()
    assert world.ledger.generation() == expected
    assert [world.receipt(request)["held"] for request in race.requests.values()] == [True] * len(race.requests)
    assert before["11"] in world.receipt(race.requests["fay"])["adapters"]
    # Who is left can still be masked: the ledger knows by what they have been seen.
    for user in ("dee", "eve"):
        world.forget(user)
        assert race.used_of({user: ""}) == []
    world.ledger.close()
    shutil.rmtree(folder)


def test_two_workers_without_a_lock_converge_to_the_bytes_of_a_clean_build_and_never_unmask(tmp_path: Path) -> None:
    expected = clean_generation(tmp_path / "clean", "dee", "eve")
    for seed in range(16):
        race_and_check(tmp_path / str(seed), seed, expected)


@pytest.mark.slow
def test_two_workers_without_a_lock_converge_in_a_thousand_interleavings(tmp_path: Path) -> None:
    expected = clean_generation(tmp_path / "clean", "dee", "eve")
    for seed in range(1_000):
        race_and_check(tmp_path / str(seed), seed, expected)


def test_a_worker_that_finishes_first_leaves_known_who_was_seen_by_what_another_is_making(world: World) -> None:
    """One of them read the ledger before Ann asked, and publishes while the other, which read it after, is training."""
    training, go_on = threading.Event(), threading.Event()

    def train() -> None:
        training.set()
        assert go_on.wait(60)

    def work_late() -> None:
        with suppress(StoreError):
            world.reconciler(FakeBuilder(world.ledger, world.store, train)).reconcile_once()

    late = threading.Thread(target=work_late)

    def meanwhile() -> None:
        world.forget("ann")
        late.start()
        assert training.wait(60)

    world.forget("fay")
    world.reconciler(FakeBuilder(world.ledger, world.store, meanwhile)).reconcile_once()
    go_on.set()
    late.join()
    reconcile_once(world.reconciler())
    world.forget("bob")
    assert world.adapters()["00"] in world.ledger.mask().adapters
    assert world.ledger.mask().rows == {"row-bob"}


class Overtaken:
    """A ledger whose user is overtaken by others right before one call."""

    def __init__(self, ledger: Ledger, call: str, others: Callable[[], object]) -> None:
        assert hasattr(ledger, call)  # under another name nobody would ever be overtaken
        self._ledger, self._call, self._others = ledger, call, others

    def __getattr__(self, name: str) -> Any:
        if name == self._call:
            self._others()
        return getattr(self._ledger, name)


def test_a_slow_worker_does_not_forget_who_was_seen_by_what_a_faster_one_has_published(world: World) -> None:
    world.forget("fay")

    def others() -> None:
        world.forget("ann")
        reconcile_once(world.reconciler())

    overtaken: Any = Overtaken(world.ledger, "drop_lineage_except", others)
    with suppress(StoreError, StoreFailure):
        world.reconciler(None, overtaken).reconcile_once()
    reconcile_once(world.reconciler())
    world.forget("bob")
    assert world.adapters()["00"] in world.ledger.mask().adapters
    assert world.ledger.mask().rows == {"row-bob"}


def test_what_a_slow_worker_made_of_somebody_forgotten_since_is_erased_although_it_died_and_nothing_is_owed(
    world: World,
) -> None:
    class Dying(Store):
        def add_generation(self, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
            raise Crash

    def meanwhile() -> None:
        world.forget("bob")
        reconcile_once(world.reconciler())

    world.forget("fay")
    dying = Dying(world.store.root)
    with pytest.raises(Crash):
        world.reconciler(FakeBuilder(world.ledger, dying, meanwhile)).reconcile_once()
    assert not world.ledger.pending()
    assert any(b'"bob"' in content for content in bytes_under(world.store.root).values())
    reconcile_once(world.reconciler())  # of the process that takes the dead one's place
    assert world.is_settled()
    assert not any(b'"bob"' in content for content in bytes_under(world.store.root).values())


def test_who_has_nothing_to_be_forgotten_while_a_build_begins_leaves_no_mask_behind(world: World) -> None:
    def others() -> None:
        world.forget("ann")
        assert world.ledger.forget("dee", ["unknown"], None).request.state == "completed"

    world.forget("fay")
    overtaken: Any = Overtaken(world.ledger, "record_lineage", others)
    builder = FakeBuilder(overtaken, world.store)
    world.reconciler(builder, overtaken).reconcile_once()
    reconcile_once(world.reconciler())
    assert world.is_settled()


# Redis


def run_in_thread(world: World, bell: RedisBell, builder: GenerationBuilder, stop: threading.Event) -> threading.Thread:
    reconciler = Reconciler(world.ledger, world.store, builder, bell, SIGNER, CONFIG)
    thread = threading.Thread(target=reconciler.run, args=(stop, 0.05), daemon=True)
    thread.start()
    return thread


class Pausing(FakeBuilder):
    """The first build waits in its middle until it is told to go on."""

    def __init__(self, ledger: Ledger, store: Store) -> None:
        super().__init__(ledger, store, self._pause)
        self.training, self.go_on = threading.Event(), threading.Event()

    def _pause(self) -> None:
        self.training.set()
        assert self.go_on.wait(60)


@pytest.mark.parametrize("blow", ["killed", "killed and restarted empty", "flushed"])
def test_a_redis_that_fails_in_the_middle_of_a_deletion_delays_but_loses_nothing(
    world: World, server: Server, tmp_path: Path, blow: str
) -> None:
    bells = [RedisBell(server.url, lock_seconds=1, fallback_interval=0.05) for _ in range(3)]
    stop, pausing = threading.Event(), Pausing(world.ledger, world.store)
    requests = [world.forget("fay")]
    workers = [run_in_thread(world, bells[0], pausing, stop)]
    assert pausing.training.wait(60)
    match blow:
        case "killed":
            server.kill()
        case "killed and restarted empty":
            server.kill()
            server.start()
        case "flushed":
            with redis.Redis.from_url(server.url) as client:
                client.flushall()
    # The lock is lost now, so that a second worker begins while the first is still at it.
    other = FakeBuilder(world.ledger, world.store)
    workers.append(run_in_thread(world, bells[1], other, stop))
    for user in ("ann", "cid"):
        requests.append(world.forget(user))
        bells[2].ring()
    eventually(lambda: all(world.ledger.request(request).state == "completed" for request in requests))
    built = len(pausing.configs) + len(other.configs)
    pausing.go_on.set()
    # Overtaken by then, so that it is refused, and whoever sees first what it left builds again.
    eventually(lambda: len(pausing.configs) + len(other.configs) > built and world.is_settled())
    stop.set()
    for bell in bells:
        bell.close()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert world.is_settled()
    assert world.ledger.generation() == clean_generation(tmp_path / "clean", "bob", "dee", "eve")
    assert all(world.receipt(request)["held"] for request in requests)


# The clock


class BackwardsClock:
    """A day earlier at each reading."""

    def __init__(self) -> None:
        self._now = 1_700_000_000.0

    def __call__(self) -> float:
        self._now -= DAY
        return self._now


def test_with_a_clock_that_is_set_back_at_every_step_nothing_ends_before_it_began(world: World, tmp_path: Path) -> None:
    world.ledger.close()
    world.ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", SECRET, clock=BackwardsClock())
    ids = [world.forget(user) for user in ("eve", "ann", "fay")]
    assert [pending.request_id for pending in world.ledger.pending()] == ids
    assert world.ledger.oldest_pending_age() >= 0
    reconcile_once(world.reconciler())
    assert world.is_settled()
    for request_id in ids:
        request = world.ledger.request(request_id)
        times = [request.accepted_at, request.masked_at, request.retraining_at, request.completed_at]
        assert all(earlier <= later for earlier, later in pairwise(times)), times  # type: ignore[operator] # None is no time, and fails
        receipt = world.receipt(request_id)
        stated = [receipt[f"{step}_at"] for step in ("accepted", "masked", "retraining", "completed")]
        assert stated == sorted(stated)
    took = [completed - accepted for accepted, completed in world.ledger.completion_times()]
    assert len(took) == len(ids)
    assert min(took) >= 0


def test_a_clock_that_is_set_back_makes_a_deletion_overdue_later_but_not_never(world: World, tmp_path: Path) -> None:
    now = [10 * DAY]
    with Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", SECRET, clock=lambda: now[0]) as ledger:
        ledger.forget("ann", None, None)
        now[0] -= DAY
        assert (ledger.overdue(DAY), ledger.oldest_pending_age()) == (0, 0.0)
        now[0] += 2 * DAY + 1
        assert ledger.overdue(DAY) == 1


def test_a_foreign_value_in_the_locks_key_delays_a_deletion_but_does_not_stop_it(world: World, server: Server) -> None:
    bell = RedisBell(server.url, lock_seconds=0.5, fallback_interval=0.05)
    with redis.Redis.from_url(server.url) as client:
        client.set(LOCK, b"of another program")
    stop = threading.Event()
    request = world.forget("fay")
    worker = run_in_thread(world, bell, FakeBuilder(world.ledger, world.store), stop)
    bell.ring()
    eventually(lambda: world.ledger.request(request).state == "completed")
    stop.set()
    bell.close()
    worker.join(60)
    assert world.receipt(request)["held"]


def test_a_worker_whose_secret_was_rotated_ends_so_that_the_next_reads_the_new_one(
    world: World, tmp_path: Path
) -> None:
    request = world.forget("fay")
    rekey(tmp_path / "ledger.sqlite", b"the next secret of the tests", [SECRET])
    with pytest.raises(SecretChanged):
        world.reconciler().run(threading.Event(), 0.05)
    with Ledger(tmp_path / "ledger.sqlite", b"the next secret of the tests", retired=[SECRET]) as ledger:
        assert ledger.request(request).state == "accepted"

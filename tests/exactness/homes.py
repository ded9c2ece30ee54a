"""A whole installation in one folder and one process: real ledger, store, builder and reconciler, no service processes."""

from __future__ import annotations

import hashlib
import pickle
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters_store import open_store
from service.building.builder import Builder, Built
from service.building.planning.embedding import embed_public_texts
from service.building.training.training import train_adapter
from service.building.workers.prefill_cache import PrefillCache
from service.forgetting.bell import PollingBell
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.reconcile import Reconciler
from service.forgetting.restore import restore_check
from service.forgetting.restraining import RestraintIntake
from service.forgetting.tombstones import TombstoneFile
from service.ledger import ImportCounts, KeyedHashes, Ledger
from service.llm.spec import ModelSpec
from service.records import BuildConfig, ForgetRequest, Interaction, Item

NOUN = "movie"
SECRET = b"the same in every home"
ENVIRONMENT = {"machine": "the same for every home"}
SIGNER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
READINGS_BYTES = 2**20  # a few people's, so that some are kept from build to build and some are not
SMALLEST_MODEL = {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
SMALLEST_ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1},
    "bart": {
        "d_model": 16,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
    },
}


class InThisProcess:
    """A process pool that runs its tasks here, one after another: what one leaves behind, the next one meets."""

    processes = 2  # so that contexts are read before a single shard trains

    def remembers(self, function: Callable[[Any, Any], Any]) -> bool:
        return False

    def run(
        self,
        function: Callable[[Any, Any], Any],
        tasks: Sequence[Any],
        on_steps: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, Any]]:
        assert torch.get_num_threads() == 1
        for number, task in enumerate(tasks):
            yield number, function(task, on_steps)

    @contextmanager
    def beside(self, function: Callable[[Any, Any], Any], task: Any) -> Iterator[Callable[[], Any]]:
        [(_, result)] = self.run(function, [task])
        yield lambda: result


class LastFirst(InThisProcess):
    """Its results come in the reverse order, as if the first task took longest."""

    def run(
        self,
        function: Callable[[Any, Any], Any],
        tasks: Sequence[Any],
        on_steps: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, Any]]:
        yield from reversed(list(super().run(function, tasks, on_steps)))


class Remembering(InThisProcess):
    """Runs each distinct task once. For clean builds: what these made is the measure, however often it is taken."""

    def __init__(self) -> None:
        self._results: dict[bytes, Any] = {}

    def remembers(self, function: Callable[[Any, Any], Any]) -> bool:
        return True

    def run(
        self,
        function: Callable[[Any, Any], Any],
        tasks: Sequence[Any],
        on_steps: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, Any]]:
        if not self.remembers(function):
            yield from super().run(function, tasks, on_steps)
            return
        for number, task in enumerate(tasks):
            key = hashlib.sha256(pickle.dumps((function.__name__, task))).digest()
            if key not in self._results:
                [(_, self._results[key])] = super().run(function, [task], on_steps)
            yield number, self._results[key]


class RememberingPublicTexts(Remembering):
    """Embeds catalog and anchor prompts once; whatever is somebody's is computed anew each time."""

    def remembers(self, function: Callable[[Any, Any], Any]) -> bool:
        return function is embed_public_texts


class Home:
    """A ledger and a store in one folder, and all that works on them."""

    def __init__(
        self,
        folder: Path,
        model: ModelSpec,
        config: BuildConfig,
        process_pool: InThisProcess | None = None,
        ledger: type[Ledger] = Ledger,
        wrapping_key: bytes | None = None,
    ) -> None:
        """With a `wrapping_key` (32 bytes) the store is encrypted."""
        folder.mkdir(exist_ok=True)
        self.folder, self.model, self.config = folder, model, config
        self.ledger = ledger(f"sqlite:///{folder}/ledger.db", SECRET)
        keys = None if wrapping_key is None else self.ledger.artifact_keys(wrapping_key)
        self.store = open_store(None, folder / "store", keys=keys)
        process_pool = process_pool or InThisProcess()
        # Clean builds, which are the measure, read everything anew.
        prefill_cache = PrefillCache(0 if process_pool.remembers(train_adapter) else READINGS_BYTES)
        runs: Any = process_pool
        builder = Builder(self.ledger, self.store, model, runs, SECRET, ENVIRONMENT, prefill_cache=prefill_cache)
        bell = PollingBell(folder / "lock")
        self.tombstones = TombstoneFile(folder / "tombstones.jsonl", KeyedHashes(SECRET))
        self.intake = Intake(self.ledger, SIGNER, self.tombstones)
        self.restraints = RestraintIntake(self.ledger.restraints, self.tombstones)
        self.reconciler = Reconciler(self.ledger, self.store, builder, bell, SIGNER, config)

    def start(self) -> None:
        """What the service does before it answers or builds anything."""
        restore_check(self.ledger, self.tombstones, self.intake)

    def close(self) -> None:
        self.ledger.close()

    def build(self) -> Built:
        """Build, publish and erase, whether or not a deletion is owed."""
        return self.reconciler.rebuild(self.config)

    def reconcile_once(self) -> bool:
        """Until nothing is owed; whether anything was."""
        worked = False
        while self.reconciler.reconcile_once():
            worked = True
        return worked

    def forget(self, user: str, items: Sequence[str] | None = None) -> ForgetRequest:
        return self.intake.forget(user, None if items is None else list(items), None)

    def take_back(self, rows: Sequence[Interaction]) -> ImportCounts:
        """Import people who came back of their own will, as the command line does."""
        with self.tombstones.locked():
            self.tombstones.remove(self.ledger.tombstones_over(rows))
            return self.ledger.import_data([], rows, None, allow_returning=True)

    def files(self) -> dict[str, bytes]:
        """Everything in the store: relative path -> content. An empty folder counts, as a path that ends in a slash."""
        root = self.store.root
        found = {}
        for path in sorted(root.rglob("*")):
            if path.is_file():
                found[str(path.relative_to(root))] = path.read_bytes()
            elif not any(path.iterdir()):
                found[f"{path.relative_to(root)}/"] = b""
        return found

    def opened_files(self) -> dict[str, bytes]:
        """What `files` would be if the store were not encrypted."""
        opened = {path.as_posix(): content for path, content in self.store.backend.contents()}
        return {path: opened.get(path, content) for path, content in self.files().items()} | {"FORMAT": b"1\n"}

    def manifest(self) -> dict[str, Any]:
        return self.store.generation(self.ledger.generation() or "").manifest

    def adapters(self) -> dict[str, dict[str, bytes]]:
        """Digest -> the adapter's files."""
        paths = {digest: self.store.adapters.path(digest) for digest in self.store.adapters.digests()}
        return {digest: {file.name: file.read_bytes() for file in path.iterdir()} for digest, path in paths.items()}

    def table(self, name: str, columns: str) -> list[tuple[Any, ...]]:
        """These columns of a table, read past the ledger."""
        with sqlite3.connect(self.folder / "ledger.db") as connection:
            rows = connection.execute(f"SELECT {columns} FROM {name}").fetchall()
        connection.close()
        return rows


def copied(origin: Path, folder: Path) -> Path:
    """A copy of a closed home's folder."""
    shutil.copytree(origin, folder)
    return folder


def shuffled(rows: Iterable[Any], seed: int = 0) -> list[Any]:
    ordered = list(rows)
    return random.Random(seed).sample(ordered, len(ordered))


def items_named(count: int) -> list[Item]:
    return [
        Item(f"item-{number}", f"Film {number} ({1950 + number})", None, ("Drama", "War")) for number in range(count)
    ]


def likings(users: Sequence[str], items: Sequence[Item], least: int, most: int) -> list[Interaction]:
    """For each user some of the items, as a fixed chance has it."""
    chance = random.Random(7)
    return [
        Interaction(user, item.item_id, chance.random() < 0.5, chance.randrange(1000))
        for user in users
        for item in chance.sample(items, chance.randint(least, most))
    ]

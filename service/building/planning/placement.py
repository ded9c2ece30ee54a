"""Where each unit goes: its path in the public tree, or the recorded partition of Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters_store import digest_of
from service.building.planning import partition
from service.building.planning.embedding import (
    EmbeddingTask,
    PublicTextsTask,
    embed_groups,
    embed_public_texts,
)
from service.building.ports import PartitionLedger
from service.building.progress import Progress, go_on
from service.building.workers.process_pool import TaskRunner
from service.data import prompts
from service.data.negatives import negative_content
from service.data.samples import canonical, canonical_order, sample_order_key
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import BuildConfig, Item, RatedItem, Sample

Floats = NDArray[np.float32]
_GROUPS_A_TASK = 64
_WINDOWS_EMBEDDED = 4  # of a unit, at most
_PLACED_AT_ONCE = 1_024  # units, between two checkpoints
_CELLS_KEPT = 2**18
_FORMAT = "lethe-places-2"
_DECIDING = (
    "partition",
    "unit",
    "tree_depth",
    "samples_per_user",
    "history_length",
    "validation_percent",
    "seed",
)


@dataclass(frozen=True, slots=True)
class Unit:
    """What is never split between shards: a user, or a sample. `digest` names its content and its order in training."""

    key: str
    user_id: str
    samples: tuple[Sample, ...]
    digest: str


def units_of(samples: Mapping[str, tuple[Sample, ...]], item_type: str, config: BuildConfig) -> list[Unit]:
    """The units of everybody's samples (by user), users in order of their ids."""
    return [unit for user, own in sorted(samples.items()) for unit in _units_of_user(user, own, item_type, config)]


def unit_of_user(user: str, samples: tuple[Sample, ...], item_type: str, config: BuildConfig) -> Unit:
    """All of a user's samples as one unit."""
    return Unit(user, user, samples, _digest(samples, item_type, config.seed))


class KnownCells:
    """Where units stand in public trees, by what they are, in memory alone: what is planned ahead is planned once more."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, str], str] = {}  # user id, digest of the unit, digest of the tree -> cell

    @property
    def people(self) -> frozenset[str]:
        """The ids of those whose units they are."""
        return frozenset(user for user, _, _ in self._cells)

    def forget(self, users: Collection[str]) -> None:
        """Keep nothing of these."""
        self._cells = {key: cell for key, cell in self._cells.items() if key[0] not in users}

    def of(self, units: Sequence[Unit], tree: partition.PublicTree) -> dict[str, str]:
        """Unit key -> cell, of those that are known."""
        digest = tree.digest()
        known = ((unit.key, self._cells.get((unit.user_id, unit.digest, digest))) for unit in units)
        return {key: cell for key, cell in known if cell is not None}

    def add(self, units: Sequence[Unit], cells: Sequence[str], tree: partition.PublicTree) -> None:
        """Keep the cells of these units, as long as there are not too many."""
        digest = tree.digest()
        if len(self._cells) < _CELLS_KEPT:
            self._cells |= {(unit.user_id, unit.digest, digest): cell for unit, cell in zip(units, cells, strict=True)}


class ShardAssigner:
    """Gives units their paths in the public tree, or their recorded shards."""

    def __init__(
        self,
        ledger: PartitionLedger,
        tokenizer: PromptTokenizer,
        model: ModelSpec,
        process_pool: TaskRunner,
        progress: Progress,
        environment: Mapping[str, str],
        checkpoint: Callable[[], None] = go_on,
    ) -> None:
        self._checkpoint = checkpoint
        self._ledger = ledger
        self._tokenizer = tokenizer
        self._model = model
        self._process_pool = process_pool
        self._progress = progress
        self._environment = environment
        self._tree: tuple[str, partition.PublicTree] | None = None  # under its fingerprint
        self._known: KnownCells | None = None

    def use(self, known: KnownCells | None) -> None:
        """Place no unit anew whose cell is known, and keep the cells of all others there; None: nothing is kept."""
        self._known = known

    def assign(
        self, units: Sequence[Unit], items: Sequence[Item], item_type: str, config: BuildConfig
    ) -> dict[str, str]:
        """unit key -> shard name, for all `units`."""
        if config.partition == "algorithm1":
            return self._recorded(units, item_type, config)
        paths = self.paths(units, self.tree(items, item_type, config), item_type, config) if units else {}
        sizes = {unit.key: len(unit.samples) for unit in units}
        return partition.shards_of_paths(paths, sizes, config.max_shard_size)

    def paths(
        self, units: Sequence[Unit], tree: partition.PublicTree, item_type: str, config: BuildConfig
    ) -> dict[str, str]:
        """unit key -> path in the public tree: of each unit a function of its own."""
        below = {unit.key: partition.hash_path(unit.key, config.seed) for unit in units}
        if not tree.planes:
            return below
        known = KnownCells() if self._known is None else self._known
        cells = known.of(units, tree)
        lacking = [unit for unit in units if unit.key not in cells]
        for first in range(0, len(lacking), _PLACED_AT_ONCE):
            some = lacking[first : first + _PLACED_AT_ONCE]
            found = [tree.path(embedding) for embedding in self.embed(some, item_type)]
            cells |= {unit.key: cell for unit, cell in zip(some, found, strict=True)}
            known.add(some, found, tree)
            self._checkpoint()
        return {key: cells[key] + path for key, path in below.items()}

    def tree(self, items: Sequence[Item], item_type: str, config: BuildConfig) -> partition.PublicTree:
        """The semantic levels that a catalog makes; a random partition has none."""
        if config.partition == "random":
            return partition.PublicTree({})
        fingerprint = self.fingerprint(items, item_type, config)
        if self._tree is None or self._tree[0] != fingerprint:
            anchors = partition.anchor_histories(items, config.history_length, config.seed)
            tree = partition.PublicTree.through(self._embed_anchors(anchors, item_type), config.tree_depth)
            self._tree = fingerprint, tree
        return self._tree[1]

    def fingerprint(self, items: Sequence[Item], item_type: str, config: BuildConfig) -> str:
        """Digest of all that decides the units of the public trees, and their places, beside a user's own rows."""
        pool = [] if config.partition == "random" else partition.anchor_pool(items, config.seed)
        # Whose samples name an item that is in none of their rows is not known, so whatever changes the pool changes all.
        negatives = {"negatives": [config.negatives, negative_content(items, item_type)]} if config.negatives else {}
        return digest_of(
            {
                **negatives,
                "format": _FORMAT,
                "template": prompts.TEMPLATE_VERSION,
                "noun": item_type,
                "config": {name: getattr(config, name) for name in _DECIDING},
                "pool": [[item.item_id, prompts.target_text(item, item_type)] for item in pool],
                "embedding": [self._tokenizer.digest, self._tokenizer.pooling, self._model.dtype, self._environment],
            }
        )

    def embed(self, units: Sequence[Unit], item_type: str) -> Floats:
        """Where the units stand in the frozen model's space: (units, H), rows of unit length."""
        groups = [tuple(self._tokenizer.context(s.history, item_type) for s in _spread(unit.samples)) for unit in units]
        tasks = [
            EmbeddingTask(self._model, tuple(groups[i : i + _GROUPS_A_TASK]))
            for i in range(0, len(groups), _GROUPS_A_TASK)
        ]
        self._progress.phase("placing users", len(groups))
        parts = dict(self._process_pool.run(embed_groups, tasks, self._progress.advance))
        return np.concatenate([parts[number] for number in range(len(tasks))])

    def _recorded(self, units: Sequence[Unit], item_type: str, config: BuildConfig) -> dict[str, str]:
        name = digest_of(
            [
                self._tokenizer.digest,
                item_type,
                config.unit,
                config.max_shard_size,
                config.seed,
                config.samples_per_user,
            ]
        )
        recorded = self._ledger.recorded_partition(name)
        self._ledger.prune_partition(name, {unit.key for unit in units})
        new = [unit for unit in units if unit.key not in recorded]
        if new:
            shards = (
                self._first_shards(new, item_type, config)
                if len(new) == len(units)
                else self._more_shards(units, recorded, item_type, config)
            )
            self._ledger.record_partition(name, [(unit.key, unit.user_id, shards[unit.key]) for unit in new])
            recorded.update(shards)
        return {unit.key: recorded[unit.key] for unit in units}

    def _first_shards(self, units: Sequence[Unit], item_type: str, config: BuildConfig) -> dict[str, str]:
        sizes = [len(unit.samples) for unit in units]
        numbers = partition.algorithm1(self.embed(units, item_type), sizes, config.max_shard_size, config.seed)
        return {unit.key: _shard_name(number) for unit, number in zip(units, numbers, strict=True)}

    def _more_shards(
        self, units: Sequence[Unit], recorded: dict[str, str], item_type: str, config: BuildConfig
    ) -> dict[str, str]:
        # Who came after the first build joins the nearest recorded shard that has room.
        embeddings = dict(zip((unit.key for unit in units), self.embed(units, item_type), strict=True))
        members: dict[str, list[Unit]] = {}
        for unit in units:
            if unit.key in recorded:
                members.setdefault(recorded[unit.key], []).append(unit)
        names = sorted(members)
        centers = np.array([np.mean([embeddings[u.key] for u in members[name]], axis=0) for name in names], np.float64)
        loads = [sum(len(u.samples) for u in members[name]) for name in names]
        new = [unit for unit in units if unit.key not in recorded]
        rows = np.array([embeddings[unit.key] for unit in new])
        numbers = partition.fill(rows, [len(unit.samples) for unit in new], centers, loads, config.max_shard_size)
        opened = max((int(name) for name in recorded.values()), default=-1) + 1
        return {
            unit.key: names[number] if number < len(names) else _shard_name(opened + number - len(names))
            for unit, number in zip(new, numbers, strict=True)
        }

    def _embed_anchors(self, anchors: list[list[RatedItem]], item_type: str) -> Floats:
        texts = tuple(self._tokenizer.context(anchor, item_type) for anchor in anchors)
        self._progress.phase("reading anchor prompts", len(texts))
        [(_, rows)] = self._process_pool.run(
            embed_public_texts, [PublicTextsTask(self._model, texts)], self._progress.advance
        )
        return rows


def _units_of_user(user: str, samples: tuple[Sample, ...], item_type: str, config: BuildConfig) -> list[Unit]:
    if config.unit == "user":
        return [unit_of_user(user, samples, item_type, config)]
    return [
        Unit(sample_order_key(sample, config.seed).hex(), user, (sample,), _digest((sample,), item_type, config.seed))
        for sample in samples
    ]


def _digest(samples: Sequence[Sample], item_type: str, seed: int) -> str:
    # The order of training follows from the keys, so that shards of equal units are trained in the same order.
    ordered = [(sample_order_key(sample, seed).hex(), sample) for sample in canonical_order(samples, seed)]
    return digest_of([[key, canonical(sample, item_type)] for key, sample in ordered])


def _spread(samples: Sequence[Sample]) -> Sequence[Sample]:
    # A user's windows overlap almost wholly; a few of them, evenly spaced, say where the user stands.
    return samples[:: -(-len(samples) // _WINDOWS_EMBEDDED)]


def _shard_name(number: int) -> str:
    return f"{number:06d}"

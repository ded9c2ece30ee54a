"""Where each unit goes, remembered in the ledger: paths in the public tree, or the recorded partition of Algorithm 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters_store import digest_of
from service.build import partition
from service.build.embedding import EmbeddingTask, PublicTextsTask, embed_groups, embed_public_texts
from service.build.progress import Progress
from service.build.workforce import Workforce
from service.data import prompts
from service.data.ledger import Ledger
from service.data.samples import canonical, sample_order_key
from service.llm.encoder import Encoder, ModelSpec
from service.llm.frozen import POOLING
from service.records import BuildConfig, Item, Opinion, Sample

Floats = NDArray[np.float32]
_GROUPS_A_TASK = 64
_WINDOWS_EMBEDDED = 4  # of a unit, at most


@dataclass(frozen=True, slots=True)
class Unit:
    """What is never split between shards: a user, or a sample. `digest` names its content."""

    key: str
    user_id: str
    samples: tuple[Sample, ...]
    digest: str


def units_of(samples: Mapping[str, tuple[Sample, ...]], noun: str, config: BuildConfig) -> list[Unit]:
    """The units of everybody's samples (by user), users in order of their ids."""
    return [unit for user, own in sorted(samples.items()) for unit in _units_of_user(user, own, noun, config)]


class Placer:
    """Gives every unit its shard's name; embeds only the units whose place is not known yet."""

    def __init__(
        self,
        ledger: Ledger,
        encoder: Encoder,
        model: ModelSpec,
        workforce: Workforce,
        progress: Progress,
        environment: Mapping[str, str],
    ) -> None:
        self._ledger = ledger
        self._encoder = encoder
        self._model = model
        self._workforce = workforce
        self._progress = progress
        self._environment = environment

    def place(self, units: Sequence[Unit], items: Sequence[Item], noun: str, config: BuildConfig) -> dict[str, str]:
        """unit key -> shard name, for all `units`."""
        if config.partition == "algorithm1":
            return self._recorded(units, noun, config)
        paths = self._hash_paths(units, config)
        if config.partition == "tree":
            semantic = self._semantic_paths(units, items, noun, config)
            paths = {key: semantic[key] + path for key, path in paths.items()}
        sizes = {unit.key: len(unit.samples) for unit in units}
        return partition.shards_of_paths(paths, sizes, config.max_shard_size)

    def tree(self, items: Sequence[Item], noun: str, config: BuildConfig) -> partition.PublicTree:
        """The semantic levels that a catalogue makes."""
        return self._tree_through(partition.anchor_histories(items, config.history_length, config.seed), noun, config)

    def embed(self, units: Sequence[Unit], noun: str) -> Floats:
        """Where the units stand in the frozen model's space: (units, H), rows of unit length."""
        groups = [tuple(self._encoder.context(s.history, noun) for s in _spread(unit.samples)) for unit in units]
        tasks = [
            EmbeddingTask(self._model, tuple(groups[i : i + _GROUPS_A_TASK]))
            for i in range(0, len(groups), _GROUPS_A_TASK)
        ]
        self._progress.phase("placing users", len(groups))
        parts = dict(self._workforce.run(embed_groups, tasks, self._progress.advance))
        return np.concatenate([parts[number] for number in range(len(tasks))])

    def _hash_paths(self, units: Sequence[Unit], config: BuildConfig) -> dict[str, str]:
        return {unit.key: partition.hash_path(unit.key, config.seed) for unit in units}

    def _semantic_paths(
        self, units: Sequence[Unit], items: Sequence[Item], noun: str, config: BuildConfig
    ) -> dict[str, str]:
        anchors = partition.anchor_histories(items, config.history_length, config.seed)
        tree_digest = self._tree_digest(anchors, noun, config)
        wanted = {unit.key: digest_of([tree_digest, unit.digest]) for unit in units}
        self._ledger.prune_placements({unit.key for unit in units})
        known = self._ledger.placements()
        paths = {key: known[key][1] for key, digest in wanted.items() if key in known and known[key][0] == digest}
        new = [unit for unit in units if unit.key not in paths]
        if new:
            tree = self._tree_through(anchors, noun, config)
            embeddings = self.embed(new, noun)
            found = {unit.key: tree.path(embedding) for unit, embedding in zip(new, embeddings, strict=True)}
            self._ledger.save_placements((u.user_id, u.key, wanted[u.key], found[u.key]) for u in new)
            paths.update(found)
        return paths

    def _recorded(self, units: Sequence[Unit], noun: str, config: BuildConfig) -> dict[str, str]:
        name = digest_of(
            [self._encoder.digest, noun, config.unit, config.max_shard_size, config.seed, config.samples_per_user]
        )
        recorded = self._ledger.recorded_partition(name)
        self._ledger.prune_partition(name, {unit.key for unit in units})
        new = [unit for unit in units if unit.key not in recorded]
        if new:
            shards = (
                self._first_shards(new, noun, config)
                if len(new) == len(units)
                else self._more_shards(units, recorded, noun, config)
            )
            self._ledger.record_partition(name, [(unit.key, unit.user_id, shards[unit.key]) for unit in new])
            recorded.update(shards)
        return {unit.key: recorded[unit.key] for unit in units}

    def _first_shards(self, units: Sequence[Unit], noun: str, config: BuildConfig) -> dict[str, str]:
        sizes = [len(unit.samples) for unit in units]
        numbers = partition.algorithm1(self.embed(units, noun), sizes, config.max_shard_size, config.seed)
        return {unit.key: _shard_name(number) for unit, number in zip(units, numbers, strict=True)}

    def _more_shards(
        self, units: Sequence[Unit], recorded: dict[str, str], noun: str, config: BuildConfig
    ) -> dict[str, str]:
        # Who came after the first build joins the nearest recorded shard that has room.
        embeddings = dict(zip((unit.key for unit in units), self.embed(units, noun), strict=True))
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

    def _tree_digest(self, anchors: list[list[Opinion]], noun: str, config: BuildConfig) -> str:
        texts = [prompts.context_text(anchor, noun) for anchor in anchors]
        return digest_of(
            [self._encoder.digest, POOLING, self._model.dtype, self._environment, config.tree_depth, texts]
        )

    def _tree_through(self, anchors: list[list[Opinion]], noun: str, config: BuildConfig) -> partition.PublicTree:
        return partition.PublicTree.through(self._embed_anchors(anchors, noun), config.tree_depth)

    def _embed_anchors(self, anchors: list[list[Opinion]], noun: str) -> Floats:
        texts = tuple(self._encoder.context(anchor, noun) for anchor in anchors)
        self._progress.phase("reading anchor prompts", len(texts))
        [(_, rows)] = self._workforce.run(
            embed_public_texts, [PublicTextsTask(self._model, texts)], self._progress.advance
        )
        return rows


def _units_of_user(user: str, samples: tuple[Sample, ...], noun: str, config: BuildConfig) -> list[Unit]:
    if config.unit == "user":
        return [Unit(user, user, samples, digest_of([canonical(sample, noun) for sample in samples]))]
    return [
        Unit(sample_order_key(sample, config.seed).hex(), user, (sample,), digest_of(canonical(sample, noun)))
        for sample in samples
    ]


def _spread(samples: Sequence[Sample]) -> Sequence[Sample]:
    # A user's windows overlap almost wholly; a few of them, evenly spaced, say where the user stands.
    return samples[:: -(-len(samples) // _WINDOWS_EMBEDDED)]


def _shard_name(number: int) -> str:
    return f"{number:06d}"

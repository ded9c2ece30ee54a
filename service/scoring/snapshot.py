"""One generation in memory, immutable and swapped whole. All of its bytes were compared with its manifest as they were read."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adapters_store import Store, StoreFailure
from service.arrays import load_array
from service.errors import Damaged, NotReady
from service.generation import Manifest
from service.llm.frozen import FrozenModel
from service.llm.graphs import Graphs, record_on_gpu
from service.llm.mixture import AdapterStack, Mixture, adapter_tensors
from service.llm.paging import PagedStack, adapter_bytes
from service.memory.artifact import load_memory
from service.memory.content import Content
from service.memory.counting import ShardCounts
from service.memory.item_model import ItemModel
from service.memory.live import LiveCounts, Memory, Source
from service.records import BuildConfig, Mask, ModelIdentity
from service.routing.neighbors import ON_CPU, IndexPlace, Neighbors
from service.scoring.device_memory import within_memory

Floats = NDArray[np.float32]


class MaskSource(Protocol):
    """The ledger, as far as scoring needs it."""

    def mask(self) -> Mask: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A generation as the scorer wants it: K adapters, V validation rows, N catalog items."""

    generation: str
    manifest: Manifest
    config: BuildConfig
    item_type: str
    mixture: Mixture
    stack: AdapterStack
    errors: Floats  # (V, K)
    neighbors: Neighbors  # over the V validation rows
    row_keys: tuple[str, ...]  # row -> opaque key
    row_number: dict[str, int]
    item_ids: tuple[str, ...]
    item_number: dict[str, int]
    item_embeddings: Floats  # (N, H)
    memory: Memory  # over the N items
    item_model: ItemModel | None
    content: Content  # of the N items

    def allowed(self, masked: Collection[str]) -> NDArray[np.bool_]:
        """(K,), True for the adapters that no mask forbids."""
        return np.array([digest not in masked for digest in self.stack.digests], dtype=np.bool_)

    def hidden_rows(self, masked: Collection[str]) -> list[int]:
        """The numbers of the masked validation rows."""
        return [self.row_number[key] for key in masked if key in self.row_number]

    def live(self, mask: Mask) -> LiveCounts:
        """The counts that the mask allows. Raises Damaged if a masked memory cannot be read."""
        return self.memory.without(mask.memories)


def load_snapshot(
    store: Store,
    generation: str,
    frozen: FrozenModel,
    mixtures: Mixtures,
    before: Snapshot | None = None,
    place: IndexPlace = ON_CPU,
    room: int = 0,
) -> Snapshot:
    """Read a generation, from the counts of the one `before` it where that comes to the same; its indexes are at `place`.

    Adapters that take more than `room` bytes of the device are paged; 0: never.

    Raises:
        Damaged: a file is missing or does not have its digest; the worker will build it again.
        NotReady: it was made for another frozen model than the one that is loaded.
        OutOfMemory: the device has no room for it.
    """
    try:
        stored = store.generation(generation)
        # The ledger names the generation, and its manifest says what belongs to it.
        stated, counted = stored.artifacts()
        files = {name: stored.read(name) for name in stored.manifest["files"]}
        manifest = Manifest.of(stored.manifest)
        config = manifest.config
        _check_model(manifest, frozen)
        stack = _stack(store, stated, config, frozen, room)
        # A generation that an older version made has no memories; the worker will make it anew.
        source = _memories(store, counted, config.min_people)
        item_ids = tuple(json.loads(files["items.json"]))
        memory = Memory.of(source, item_ids) if before is None else before.memory.renewed(source, item_ids)
    except StoreFailure as failure:
        raise Damaged(str(failure)) from failure
    return _snapshot(generation, manifest, files, mixtures.of(config.lora_targets), stack, memory, place)


def _snapshot(
    generation: str,
    manifest: Manifest,
    files: Mapping[str, bytes],
    mixture: Mixture,
    stack: AdapterStack,
    memory: Memory,
    place: IndexPlace,
) -> Snapshot:
    item_ids = tuple(json.loads(files["items.json"]))
    row_keys = tuple(json.loads(files["rows.json"]))
    item_embeddings = load_array(files["item_embeddings.npy"])
    return Snapshot(
        generation=generation,
        manifest=manifest,
        config=manifest.config,
        item_type=manifest.item_type,
        mixture=mixture,
        stack=stack,
        errors=load_array(files["errors.npy"]),
        neighbors=Neighbors(load_array(files["embeddings.npy"]), place),
        row_keys=row_keys,
        row_number={key: number for number, key in enumerate(row_keys)},
        item_ids=item_ids,
        item_number={item_id: number for number, item_id in enumerate(item_ids)},
        item_embeddings=item_embeddings,
        memory=memory,
        item_model=ItemModel.of(files),
        content=Content(_facts(files, len(item_ids)), item_embeddings),
    )


def _stack(
    store: Store, stated: Mapping[str, Mapping[str, str]], config: BuildConfig, frozen: FrozenModel, room: int
) -> AdapterStack:
    adapters = {digest: adapter_tensors(store.adapters.stated(digest, own).read()) for digest, own in stated.items()}
    scaling = config.adapter_scaling
    if 0 < room < adapter_bytes(adapters, frozen):
        return within_memory(lambda: PagedStack.paged(adapters, scaling, frozen, room))
    return within_memory(lambda: AdapterStack.of(adapters, scaling, frozen))


def _memories(store: Store, stated: Mapping[str, Mapping[str, str]], least_people: int) -> Source:
    def load(digest: str) -> ShardCounts:
        try:
            return load_memory(store.memories.stated(digest, stated[digest]).read())
        except StoreFailure as failure:
            raise Damaged(str(failure)) from failure

    return Source(tuple(stated), load, least_people)


def _facts(files: Mapping[str, bytes], items: int) -> Floats:
    if "item_facts.npy" in files:
        facts: Floats = load_array(files["item_facts.npy"])
        return facts
    return np.zeros((items, 0), np.float32)  # a generation that an older version made; the worker will make it anew


class Mixtures:
    """One mixture for each set of target modules, for good: a batch may still run on the generation before."""

    def __init__(self, frozen: FrozenModel) -> None:
        self._frozen = frozen
        self._by_targets: dict[tuple[str, ...], Mixture] = {}

    def _graphs(self) -> Graphs | None:
        return Graphs(self._frozen, record_on_gpu) if self._frozen.device.type == "cuda" else None

    def of(self, targets: tuple[str, ...]) -> Mixture:
        if targets not in self._by_targets:
            self._by_targets[targets] = Mixture(self._frozen, targets, graphs=self._graphs())
        return self._by_targets[targets]


class Snapshots:
    """Holds the newest snapshot. Anybody may ask for a generation; it is loaded once and replaces the one before."""

    def __init__(self, store: Store, frozen: FrozenModel, place: IndexPlace = ON_CPU, room: int = 0) -> None:
        self._store = store
        self.place = place
        self._room = room
        self._frozen = frozen
        self._loading = threading.Lock()
        self._mixtures = Mixtures(frozen)
        self._current: Snapshot | None = None

    @property
    def current(self) -> Snapshot | None:
        """The newest snapshot, without waiting."""
        return self._current

    def served(self, masks: MaskSource) -> tuple[Mask, Snapshot]:
        """The mask as it is now, and the snapshot of the generation that it names. Raises as `of` does."""
        mask = masks.mask()
        try:
            return mask, self._following(mask)
        except Damaged:
            # The worker may have erased that generation while it was being read, having published a newer one.
            newer = masks.mask()
            if newer.generation == mask.generation:
                raise
            return newer, self._following(newer)

    def _following(self, mask: Mask) -> Snapshot:
        snapshot = self.of(mask.generation)
        snapshot.live(mask)  # reads what is masked, while it is there
        return snapshot

    def of(self, generation: str | None) -> Snapshot:
        """The snapshot of the generation that the ledger calls published.

        Raises:
            NotReady: nothing is published yet.
            Damaged: it cannot be read.
        """
        if generation is None:
            raise NotReady("no generation is published yet; run `lethe build`, or wait for the worker")
        current = self._current
        if current is not None and current.generation == generation:
            return current
        with self._loading:
            if self._current is None or self._current.generation != generation:
                self._current = load_snapshot(
                    *(self._store, generation, self._frozen, self._mixtures, self._current, self.place, self._room)
                )
                self._forget_others(self._current)
            return self._current

    def _forget_others(self, snapshot: Snapshot) -> None:
        """Nothing of an earlier generation stays among what was read of the store, as some of it may be erased there."""
        manifest = snapshot.manifest
        adapters, memories = ([each.digest for each in kind] for kind in (manifest.adapters, manifest.memories))
        self._store.forget_except(adapters, memories, snapshot.generation)


def _check_model(manifest: Manifest, frozen: FrozenModel) -> None:
    if manifest.model != ModelIdentity(frozen.tokenizer.digest, frozen.spec.dtype):
        raise NotReady(
            "the published generation was built on another frozen model than the one that is configured; "
            "set LETHE_MODEL (and LETHE_DTYPE) back, or run `lethe build` with the new one"
        )

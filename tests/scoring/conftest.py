"""A store with hand-made generations, a ledger that is two plain values, and a frozen model: all that scoring meets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from adapters_store import Store, canonical_json, digest_of
from service.arrays import array_bytes
from service.errors import UnknownUser
from service.generation import AdapterEntry, MemoryEntry
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.memory.artifact import memory_files
from service.memory.content import facts_of
from service.memory.counting import count_people
from service.records import BuildConfig, ById, ByTitle, Interaction, Item, ItemName, Mask, ModelIdentity, RatedItem
from service.scoring.snapshot import Snapshots
from tests.manifests import manifest, memory

NOUN = "movie"
CONFIG = BuildConfig(lora_rank=2, lora_alpha=4, top_n=4, tau=5.0)
ITEMS = tuple(Item(str(number), f"Film {number}", None, ("Drama",)) for number in range(12))


class World:
    item_type = NOUN

    def __init__(self, root: Path, folder: Path, random_adapter: Callable[..., dict[str, torch.Tensor]]) -> None:
        self.frozen = FrozenModel.load(ModelSpec(str(folder)))
        self.store = Store(root / "store")
        self.snapshots = Snapshots(self.store, self.frozen)
        self.current = Mask(0, 0, None, frozenset(), frozenset())
        self.items = ITEMS
        self._random_adapter = random_adapter

    # The ledger's side

    def mask(self) -> Mask:
        return self.current

    @property
    def generation(self) -> str:
        """The published one."""
        assert self.current.generation is not None
        return self.current.generation

    def change(self, **changed: Any) -> None:
        self.current = replace(self.current, revision=self.current.revision + 1, **changed)

    # The builder's side

    def publish(
        self,
        seed: int = 0,
        adapters: int = 3,
        rows: int = 10,
        frozen: ModelIdentity | None = None,
        people: Sequence[Sequence[Interaction]] = (),
        **changed: Any,
    ) -> list[str]:
        """Make a generation of random adapters and rows and publish it; returns the digests of its adapters.

        `people` are lists of interactions; each person has a memory of their own.
        """
        random = np.random.default_rng(seed)
        config = replace(CONFIG, **changed)
        digests = [self._store_adapter(config, 100 * seed + number) for number in range(adapters)]
        self.rows = [digest_of(["row", seed, number])[:32] for number in range(rows)]
        self.errors = random.random((rows, adapters)).astype(np.float32)
        self.embeddings = _unit_rows(random.normal(size=(rows, 32)))
        self.config, self.digests = config, digests
        stated = manifest(
            adapters=tuple(AdapterEntry(d, d[:4], 7, self.store.adapters.sums(d)) for d in digests),
            memories=tuple(self._store_memory(own) for own in people),
            model=frozen or ModelIdentity(self.frozen.tokenizer.digest, "float32"),
            item_type=NOUN,
            config=config,
            validation_rows=rows,
        ).stated()
        files = {
            "rows.json": canonical_json(self.rows),
            "errors.npy": array_bytes(self.errors),
            "embeddings.npy": array_bytes(self.embeddings),
            "items.json": canonical_json([item.item_id for item in self.items]),
            "item_embeddings.npy": array_bytes(_item_embeddings(self.frozen, self.items)),
            "item_facts.npy": array_bytes(facts_of(self.items)),
        }
        generation = self.store.add_generation(json.loads(json.dumps(stated)), files)
        self.store.publish(generation)
        self.change(generation=generation)
        return digests

    def adapter(self, digest: str) -> dict[str, torch.Tensor]:
        return safetensors.torch.load_file(self.store.adapters.path(digest) / "adapter_model.safetensors")

    def _store_memory(self, interactions: Sequence[Interaction]) -> MemoryEntry:
        digest = digest_of(["memory", *(f"{row.user_id} {row.item_id} {row.liked}" for row in interactions)])
        return memory(digest, files=self.store.memories.add(digest, memory_files(count_people([interactions]))))

    def _store_adapter(self, config: BuildConfig, seed: int) -> str:
        tensors = self._random_adapter(self.frozen.model, config.lora_targets, config.lora_rank, seed)
        digest = digest_of(["adapter", seed])
        self.store.adapters.add(digest, {"adapter_model.safetensors": safetensors.torch.save(tensors)})
        return digest


class FakeCatalog:
    """The ledger as far as a query needs it: one user who has seen items 0 to 3 and likes the even ones."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.items = {item.item_id: item for item in world.items}
        self.opinions = [RatedItem(item, number % 2 == 0) for number, item in enumerate(world.items[:4])]

    def history(self, user_id: str, limit: int) -> tuple[RatedItem, ...]:
        if user_id != "someone":
            raise UnknownUser("nothing is held of this user")
        return tuple(self.opinions[-limit:])

    def has_order(self, user_id: str) -> bool:
        return True

    def seen(self, user_id: str) -> frozenset[str]:
        if user_id != "someone":
            return frozenset()
        return frozenset(opinion.item.item_id for opinion in self.opinions)

    def items_by_id(self, ids: Sequence[str]) -> dict[str, Item]:
        return {item_id: self.items[item_id] for item_id in ids if item_id in self.items}

    def items_meant(self, names: Sequence[ItemName]) -> dict[ItemName, list[Item]]:
        return {name: items for name in names if (items := self._meant(name))}

    def _meant(self, name: ItemName) -> list[Item]:
        if isinstance(name, ById):
            return self._with_id(name.item_id)
        if isinstance(name, ByTitle):
            return self._titled(name.title)
        return self._with_id(name) or self._titled(name)

    def _with_id(self, item_id: str) -> list[Item]:
        return [self.items[item_id]] if item_id in self.items else []

    def _titled(self, title: str) -> list[Item]:
        return [item for item in self.items.values() if item.title == title]

    def mask(self) -> Mask:
        return self._world.current


def _unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _item_embeddings(frozen: FrozenModel, items: Sequence[Item]) -> NDArray[np.float32]:
    if not items:
        return np.zeros((0, 0), np.float32)
    return np.concatenate([frozen.embed([frozen.tokenizer.item(item)]).numpy() for item in items])


@pytest.fixture
def world(
    tmp_path: Path, tiny_models: Callable[..., Path], random_adapter: Callable[..., dict[str, torch.Tensor]]
) -> World:
    return World(tmp_path, tiny_models("llama"), random_adapter)

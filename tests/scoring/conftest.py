"""A store with hand-made generations, a ledger that is two plain values, and a frozen model: all that scoring meets."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors.torch

from adapters_store import Store, canonical_json, digest_of
from service.arrays import array_bytes
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.memory.artifact import memory_files
from service.memory.counting import count_people
from service.records import BuildConfig, Item, Mask
from service.scoring.snapshot import Snapshots

NOUN = "movie"
CONFIG = BuildConfig(lora_rank=2, lora_alpha=4, top_n=4, tau=5.0)
ITEMS = tuple(Item(str(number), f"Film {number}", None, ("Drama",)) for number in range(12))


class World:
    item_type = NOUN

    def __init__(self, root, folder, random_adapter):
        self.frozen = FrozenModel.load(ModelSpec(str(folder)))
        self.store = Store(root / "store")
        self.snapshots = Snapshots(self.store, self.frozen)
        self.current = Mask(0, 0, None, frozenset(), frozenset())
        self.items = ITEMS
        self._random_adapter = random_adapter

    # The ledger's side

    def mask(self):
        return self.current

    def change(self, **changed):
        self.current = replace(self.current, revision=self.current.revision + 1, **changed)

    # The builder's side

    def publish(self, seed=0, adapters=3, rows=10, frozen=None, people=(), **changed):
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
        manifest = {
            "adapters": [
                {"digest": digest, "shard": digest[:4], "samples": 7, "files": self.store.adapters.sums(digest)}
                for digest in digests
            ],
            "memories": [self._store_memory(own) for own in people],
            "frozen": frozen or {"digest": self.frozen.tokenizer.digest, "dtype": "float32"},
            "noun": NOUN,
            "config": asdict(config),
            "validation_rows": rows,
        }
        files = {
            "rows.json": canonical_json(self.rows),
            "errors.npy": array_bytes(self.errors),
            "embeddings.npy": array_bytes(self.embeddings),
            "items.json": canonical_json([item.item_id for item in self.items]),
            "item_embeddings.npy": array_bytes(_item_embeddings(self.frozen, self.items)),
        }
        generation = self.store.add_generation(json.loads(json.dumps(manifest)), files)
        self.store.publish(generation)
        self.change(generation=generation)
        return digests

    def adapter(self, digest):
        return safetensors.torch.load_file(self.store.adapters.path(digest) / "adapter_model.safetensors")

    def _store_memory(self, interactions):
        digest = digest_of(["memory", *(f"{row.user_id} {row.item_id} {row.liked}" for row in interactions)])
        with self.store.memories.new(digest) as folder:
            for name, content in memory_files(count_people([interactions])).items():
                (folder / name).write_bytes(content)
        return {"digest": digest, "files": self.store.memories.sums(digest)}

    def _store_adapter(self, config, seed):
        tensors = self._random_adapter(self.frozen.model, config.lora_targets, config.lora_rank, seed)
        digest = digest_of(["adapter", seed])
        with self.store.adapters.new(digest) as folder:
            safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")
        return digest


def _unit_rows(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _item_embeddings(frozen, items):
    if not items:
        return np.zeros((0, 0), np.float32)
    return np.concatenate([frozen.embed([frozen.tokenizer.item(item)]).numpy() for item in items])


@pytest.fixture
def world(tmp_path, tiny_models, random_adapter):
    return World(tmp_path, tiny_models("llama"), random_adapter)

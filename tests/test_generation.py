"""Manifests in typed values: what is stored keeps its keys, and what another version made is told apart before it is read."""

from __future__ import annotations

import json
from dataclasses import replace

from service.generation import FORMAT, Manifest, MemoryEntry, is_current
from tests.manifests import adapter, manifest

MADE = manifest(
    adapters=(adapter("a" * 64, "01", {"adapter_model.safetensors": "1" * 64}),),
    memories=(MemoryEntry("b" * 64, "0", 7, {"counts.safetensors": "2" * 64}),),
    validation_rows=3,
)


def test_what_is_stored_comes_back() -> None:
    assert Manifest.of(json.loads(json.dumps(MADE.stated()))) == MADE


def test_the_keys_that_digests_depend_on_are_those_of_the_first_release() -> None:
    stated = MADE.stated()
    assert set(stated) == {
        "format",
        "frozen",
        "template",
        "noun",
        "catalogue",
        "config",
        "environment",
        "adapters",
        "memories",
        "item_model",
        "validation_rows",
    }
    assert set(stated["adapters"][0]) == {"digest", "shard", "samples", "files"}
    assert set(stated["memories"][0]) == {"digest", "shard", "interactions", "files"}


def test_another_versions_manifest_is_told_apart_whatever_it_states() -> None:
    assert is_current(MADE.stated())
    for other in ({}, {"format": "lethe-generation-1"}, {"format": f"{FORMAT}0", "adapters": 5}):
        assert not is_current(other)


def test_of_a_generation_before_memories_there_are_none() -> None:
    earlier = {name: value for name, value in MADE.stated().items() if name not in ("memories", "item_model")}
    assert Manifest.of(earlier) == replace(MADE, memories=(), item_model="")

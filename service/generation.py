"""A generation in typed values: what its manifest states, and what is told of the one that is served.

The store knows a manifest as JSON, whose SHA-256 is the generation's id. So the keys that stand there are never renamed; the
names here are the ones that are spoken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from service.records import BuildConfig, ModelIdentity

FORMAT = "lethe-generation-2"

Files = Mapping[str, str]  # name -> SHA-256


def is_current(stated: Mapping[str, Any]) -> bool:
    """Whether a manifest, as JSON, is of a form that this version makes; a generation of any other is built again."""
    return stated.get("format") == FORMAT


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """An adapter as a manifest states it: its digest, its shard's path, training samples, and the SHA-256 of each file."""

    digest: str
    shard: str
    samples: int
    files: Files


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """A memory as a manifest states it: its digest, its shard's path, interactions counted, and the SHA-256 of each file."""

    digest: str
    shard: str
    interactions: int
    files: Files


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation is made of and from. `catalog` and `item_model` are digests; `template` names the prompt's wording."""

    model: ModelIdentity
    template: str
    item_type: str
    catalog: str
    config: BuildConfig
    environment: Mapping[str, str]
    adapters: tuple[AdapterEntry, ...]
    memories: tuple[MemoryEntry, ...]
    item_model: str
    validation_rows: int
    format: str = FORMAT

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> Self:
        """The manifest that a store returns as JSON. What an older version's lacks (memories, an item model) is empty."""
        adapters = (AdapterEntry(a["digest"], a["shard"], a["samples"], a.get("files", {})) for a in stated["adapters"])
        memories = (
            MemoryEntry(m["digest"], m["shard"], m["interactions"], m["files"]) for m in stated.get("memories", ())
        )
        return cls(
            model=ModelIdentity(**stated["frozen"]),
            template=stated["template"],
            item_type=stated["noun"],
            catalog=stated["catalogue"],
            config=BuildConfig.of(stated["config"]),
            environment=stated["environment"],
            adapters=tuple(adapters),
            memories=tuple(memories),
            item_model=stated.get("item_model", ""),
            validation_rows=stated["validation_rows"],
            format=stated["format"],
        )

    def stated(self) -> dict[str, Any]:
        """The manifest as JSON, under the keys that its digest depends on."""
        return {
            "format": self.format,
            "frozen": asdict(self.model),
            "template": self.template,
            "noun": self.item_type,
            "catalogue": self.catalog,
            "config": self.config.stated(),
            "environment": dict(self.environment),
            "adapters": [asdict(adapter) for adapter in self.adapters],
            "memories": [asdict(memory) for memory in self.memories],
            "item_model": self.item_model,
            "validation_rows": self.validation_rows,
        }


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """A shard that is served: its adapter's digest, its path, its training samples, and whether a deletion masks it."""

    digest: str
    name: str
    samples: int
    masked: bool


@dataclass(frozen=True, slots=True)
class GenerationInfo:
    """What is told of the generation that a process serves. `computing` says on what, where the process knows."""

    generation: str
    fence: int
    config: BuildConfig
    model: ModelIdentity
    shards: tuple[ShardInfo, ...]
    validation_rows: int
    computing: Mapping[str, str] | None = None

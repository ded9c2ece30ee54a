"""Manifests of generations that tests make up."""

from __future__ import annotations

from dataclasses import replace

from service.generation import AdapterEntry, Manifest, MemoryEntry
from service.records import BuildConfig, ModelIdentity

MODEL = ModelIdentity("f" * 64, "float32")
_PLAIN = Manifest(MODEL, "t", "movie", "c" * 64, BuildConfig(), {}, (), (), "i" * 64, 0)


def manifest(**stated: object) -> Manifest:
    """A manifest that states this, and something plain of everything else."""
    return replace(_PLAIN, **stated)  # type: ignore[arg-type]


def adapter(digest: str, shard: str = "", files: dict[str, str] | None = None) -> AdapterEntry:
    """An adapter of one sample."""
    return AdapterEntry(digest, shard, 1, files or {})


def memory(digest: str, shard: str = "", files: dict[str, str] | None = None) -> MemoryEntry:
    """A memory of one interaction."""
    return MemoryEntry(digest, shard, 1, files or {})

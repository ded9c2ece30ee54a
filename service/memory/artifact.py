"""A shard's counts as files, and back. Plain arrays and JSON: nothing that could run, and the same bytes for equal counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import safetensors.numpy
from numpy.typing import NDArray

from service.errors import Damaged
from service.memory.counting import Pairs, ShardCounts

COUNTS = "counts.safetensors"
ITEMS = "items.json"
_OF_ITEMS = ("likes", "dislikes")
_OF_PAIRS = ("together", "followed")
_COLUMNS = tuple(field.name for field in fields(Pairs))


def memory_files(counts: ShardCounts) -> dict[str, bytes]:
    """File name -> content."""
    arrays: dict[str, NDArray[Any]] = {name: getattr(counts, name) for name in _OF_ITEMS}
    for kind in _OF_PAIRS:
        arrays |= {f"{kind}.{column}": getattr(getattr(counts, kind), column) for column in _COLUMNS}
    return {
        COUNTS: safetensors.numpy.save(arrays),
        ITEMS: json.dumps(counts.items, ensure_ascii=False).encode(),
    }


def load_memory(files: Mapping[str, bytes]) -> ShardCounts:
    """The counts in an artifact's files (name -> content). Raises Damaged if these do not hold counts."""
    try:
        arrays = safetensors.numpy.load(files[COUNTS])
        pairs = {kind: Pairs(*(arrays[f"{kind}.{column}"] for column in _COLUMNS)) for kind in _OF_PAIRS}
        items = tuple(json.loads(files[ITEMS]))
        likes, dislikes = (arrays[name] for name in _OF_ITEMS)
        return ShardCounts(items, likes, dislikes, pairs["together"], pairs["followed"])
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise Damaged("a memory's files do not hold counts; build again") from error

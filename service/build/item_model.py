"""Memories -> the generation's item model, solved in a process of its own: its bits depend on the number of threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.build.rows import array_bytes
from service.build.workforce import Report
from service.memory.artifact import load_memory
from service.memory.item_model import gram, modeled_items, solve
from service.memory.live import Memory, Source

NUMBERS, WEIGHTS = "item_model_items.npy", "item_model.npy"
FORMAT = "lethe-item-model-1"


@dataclass(frozen=True, slots=True)
class ItemModelTask:
    """All memories of a generation, by the folders of their artifacts, and its catalog."""

    memories: tuple[Path, ...]
    item_ids: tuple[str, ...]
    least_people: int


def solve_item_model(task: ItemModelTask, report: Report) -> dict[str, bytes]:
    """File name -> content. Reports one step."""
    folders = {folder.name: folder for folder in task.memories}
    source = Source(tuple(folders), lambda digest: load_memory(folders[digest]), task.least_people)
    live = Memory.of(source, task.item_ids).without()
    items = modeled_items(live)
    weights = solve(gram(live, items))
    report(1)
    return {NUMBERS: array_bytes(items), WEIGHTS: array_bytes(weights)}

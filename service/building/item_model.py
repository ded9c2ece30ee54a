"""Memories -> the generation's item model, solved in a process of its own: its bits depend on the number of threads."""

from __future__ import annotations

from dataclasses import dataclass

from adapters_store import StatedArtifact
from service.building.workers.process_pool import Report
from service.memory.artifact import load_memory
from service.memory.item_model import ItemModel, gram, modeled_items, solve
from service.memory.live import Memory, Source

FORMAT = "lethe-item-model-2"


@dataclass(frozen=True, slots=True)
class ItemModelTask:
    """All memories of a generation and its catalog."""

    memories: tuple[StatedArtifact, ...]
    item_ids: tuple[str, ...]
    least_people: int


def solve_item_model(task: ItemModelTask, report: Report) -> dict[str, bytes]:
    """File name -> content. Reports one step."""
    artifacts = {memory.digest: memory for memory in task.memories}
    source = Source(tuple(artifacts), lambda digest: load_memory(artifacts[digest].read()), task.least_people)
    live = Memory.of(source, task.item_ids).without()
    items = modeled_items(live)
    weights = solve(gram(live, items))
    report(1)
    return ItemModel(items, weights).files()

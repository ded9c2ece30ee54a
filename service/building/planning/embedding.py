"""Where units and items stand in the frozen model's space. A unit is embedded in a batch of its own samples alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.building.workers.process_pool import Report
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec

Floats = NDArray[np.float32]
_BATCH = 16
_PUBLIC_BATCH = 64


@dataclass(frozen=True, slots=True)
class PublicTextsTask:
    """Token rows that are nobody's: they may share batches."""

    model: ModelSpec
    texts: tuple[list[int], ...]


def embed_public_texts(task: PublicTextsTask, report: Report) -> Floats:
    """(texts, H), rows of unit length. Reports one step a text."""
    frozen = FrozenModel.load(task.model)
    parts = []
    for i in range(0, len(task.texts), _PUBLIC_BATCH):
        batch = task.texts[i : i + _PUBLIC_BATCH]
        parts.append(frozen.embed(batch).cpu().numpy())
        report(len(batch))
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class EmbeddingTask:
    """Groups of token rows; each group gets one embedding, the mean over its rows."""

    model: ModelSpec
    groups: tuple[tuple[list[int], ...], ...]


def embed_groups(task: EmbeddingTask, report: Report) -> Floats:
    """(groups, H), rows of unit length. Reports one step a group."""
    frozen = FrozenModel.load(task.model)
    rows = []
    for group in task.groups:
        parts = [frozen.embed(group[i : i + _BATCH]) for i in range(0, len(group), _BATCH)]
        rows.append(torch.nn.functional.normalize(torch.cat(parts).mean(dim=0), dim=0).cpu().numpy())
        report(1)
    return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)

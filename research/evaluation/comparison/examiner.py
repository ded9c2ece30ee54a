"""The test samples, scored with adapters on every token of the prompt, as the papers do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from research.evaluation.comparison.splits import Split
from research.evaluation.metrics import (
    accuracy,
    auc,
    log_loss,
    uauc,
)
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.records import Level, Sample

Floats = NDArray[np.float32]
Value = TypeVar("Value")
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Timed(Generic[Value]):
    """Something, and the seconds of wall time that its making took."""

    value: Value
    seconds: float


def timed(make: Callable[[], Value]) -> Timed[Value]:
    """Call `make` once."""
    began = time.perf_counter()
    value = make()
    return Timed(value, time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Quality:
    """How good N scores are. `auc` and `uauc` are NaN where a class is absent."""

    auc: float
    uauc: float
    accuracy: float
    log_loss: float


class Examiner:
    """One split under one frozen model; the mixture's hooks are put on the model once."""

    def __init__(self, split: Split, frozen: FrozenModel, targets: Sequence[str]) -> None:
        self._split = split
        self._frozen = frozen
        self._mixture = Mixture(frozen, targets)
        self._liked = [sample.liked for sample in split.test]
        self._prompts = [self._context(sample) + self._question(sample) for sample in split.test]

    def quality(self, scores: Sequence[float]) -> Quality:
        """How good N scores are, in the order of the test samples."""
        liked, users = self._liked, [sample.user_id for sample in self._split.test]
        return Quality(auc(scores, liked), uauc(scores, liked, users), accuracy(scores, liked), log_loss(scores, liked))

    def scores(self, stack: AdapterStack, weights: Floats, level: Level) -> Timed[list[float]]:
        """P(Yes) of the N test samples under a mixture with weights (N, K), level D or ND."""
        return timed(lambda: self._scores(stack, torch.from_numpy(weights), level))

    def served(self, score: Callable[[Sequence[Sample]], Sequence[float]]) -> Timed[list[float]]:
        """P(Yes) of the N test samples by what scores samples in the order in which it gets them."""
        order = _by_length(self._prompts)
        return timed(lambda: _restored(score([self._split.test[number] for number in order]), order))

    @cached_property
    def test_embeddings(self) -> Timed[Floats]:
        """Where the test samples' contexts stand: (N, H), rows of unit length."""
        return timed(lambda: self._embedded([self._context(sample) for sample in self._split.test]))

    @cached_property
    def validation_embeddings(self) -> Floats:
        """Where the validation samples' contexts stand: (V, H), rows of unit length."""
        return self._embedded([self._context(sample) for sample in self._split.valid])

    @cached_property
    def whole_test_embeddings(self) -> Floats:
        """Where the test samples' whole prompts stand: (N, H), rows of unit length."""
        return self._embedded(self._prompts)

    @cached_property
    def whole_validation_embeddings(self) -> Floats:
        """Where the validation samples' whole prompts stand: (V, H), rows of unit length."""
        return self._embedded([self._context(sample) + self._question(sample) for sample in self._split.valid])

    def _embedded(self, rows: Sequence[list[int]]) -> Floats:
        order = _by_length(rows)
        parts = [self._frozen.embed([rows[number] for number in batch]).cpu().numpy() for batch in _batches(order)]
        return np.array(_restored(np.concatenate(parts), order))

    def _context(self, sample: Sample) -> list[int]:
        return self._frozen.tokenizer.context(sample.history, self._split.item_type)

    def _question(self, sample: Sample) -> list[int]:
        return self._frozen.tokenizer.question(sample.target, self._split.item_type)

    def _scores(self, stack: AdapterStack, weights: torch.Tensor, level: Level) -> list[float]:
        order = _by_length(self._prompts)
        scores: list[float] = []
        for batch in _batches(order):
            prompts = [self._prompts[number] for number in batch]
            scores += torch.sigmoid(self._mixture.yes_no_logits_whole(prompts, stack, weights[batch], level)).tolist()
        return _restored(scores, order)


def _by_length(rows: Sequence[Sequence[int]]) -> list[int]:
    """Numbers of the rows, shortest first: a batch is padded to its longest, so rows of like length go together."""
    return sorted(range(len(rows)), key=lambda number: len(rows[number]))


def _batches(order: list[int]) -> list[list[int]]:
    return [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]


def _restored(values: Iterable[Value], order: Sequence[int]) -> list[Value]:
    """The values, of which the first belongs to the row `order[0]`, in the order of the rows."""
    by_row = dict(zip(order, values, strict=True))
    return [by_row[number] for number in range(len(order))]

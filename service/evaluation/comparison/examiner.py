"""The test samples, scored with adapters on every token of the prompt, as the papers do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from service.evaluation.comparison.splits import Split
from service.evaluation.metrics import accuracy, auc, log_loss, uauc
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.records import Sample

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

    def quality(self, scores: Sequence[float]) -> Quality:
        """Of N scores, in the order of the test samples."""
        liked, users = self._liked, [sample.user_id for sample in self._split.test]
        return Quality(auc(scores, liked), uauc(scores, liked, users), accuracy(scores, liked), log_loss(scores, liked))

    def scores(self, stack: AdapterStack, weights: Floats, level: str) -> Timed[list[float]]:
        """P(Yes) of the N test samples under a mixture with weights (N, K), level D or ND."""
        return timed(lambda: self._scores(stack, torch.from_numpy(weights), level))

    @cached_property
    def test_embeddings(self) -> Timed[Floats]:
        """Where the test samples' contexts stand: (N, H), rows of unit length."""
        return timed(lambda: self.embeddings(self._split.test))

    @cached_property
    def validation_embeddings(self) -> Floats:
        """Where the validation samples' contexts stand: (V, H), rows of unit length."""
        return self.embeddings(self._split.valid)

    def embeddings(self, samples: Sequence[Sample]) -> Floats:
        """(samples, H), rows of unit length."""
        contexts = [self._frozen.encoder.context(sample.history, self._split.noun) for sample in samples]
        batches = (contexts[i : i + _BATCH] for i in range(0, len(contexts), _BATCH))
        return np.concatenate([self._frozen.embed(batch).cpu().numpy() for batch in batches])

    @cached_property
    def _prompts(self) -> list[list[int]]:
        encoder, noun = self._frozen.encoder, self._split.noun
        return [encoder.context(s.history, noun) + encoder.question(s.target, noun) for s in self._split.test]

    def _scores(self, stack: AdapterStack, weights: torch.Tensor, level: str) -> list[float]:
        scores: list[float] = []
        for i in range(0, len(self._prompts), _BATCH):
            difference = self._mixture.answer_whole(
                self._prompts[i : i + _BATCH], stack, weights[i : i + _BATCH], level
            )
            scores += torch.sigmoid(difference).tolist()
        return scores

"""A batch of requests -> P(Yes) of every candidate. Reads as the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from time import perf_counter
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import Damaged
from service.llm.frozen import Contexts, FrozenModel
from service.records import Mask
from service.routing.weights import mean_errors, softmax_weights
from service.scoring.encoding import RequestEncoder
from service.scoring.requests import EncodedRequest, Scored, ScoreRequest
from service.scoring.snapshot import Snapshot, Snapshots

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class MaskSource(Protocol):
    """The ledger, as far as scoring needs it."""

    def mask(self) -> Mask: ...


class Stopwatch(Protocol):
    """Takes the seconds that the parts of a batch took."""

    def observe_forward(self, seconds: float) -> None: ...

    def observe_neighbours(self, seconds: float) -> None: ...


class Scorer:
    """Scores under the mask that the ledger holds at the moment the batch starts."""

    def __init__(self, masks: MaskSource, snapshots: Snapshots, frozen: FrozenModel, stopwatch: Stopwatch) -> None:
        self._masks = masks
        self._snapshots = snapshots
        self._frozen = frozen
        self._stopwatch = stopwatch
        self._encoder = RequestEncoder(frozen.encoder)

    def encoded(self, requests: Sequence[ScoreRequest]) -> list[EncodedRequest]:
        """The requests in token ids, for whoever asks without a recommender. Raises as `score` does."""
        _, snapshot = self._now()
        return [self._encoder.encode(request, snapshot.noun) for request in requests]

    def score(self, requests: Sequence[EncodedRequest]) -> list[Scored]:
        """One answer a request; rows of all requests share the forward passes.

        Raises:
            LedgerUnavailable: the mask cannot be known, so nothing may be scored.
            NotReady, Damaged: there is no generation to score with.
        """
        mask, snapshot = self._now()
        began = perf_counter()
        contexts = self._frozen.read_contexts([request.context for request in requests])
        near, weights = self._route(contexts, snapshot, mask)
        routed = perf_counter()
        scores = self._answer(requests, contexts, weights, snapshot)
        self._stopwatch.observe_forward(perf_counter() - routed)
        self._stopwatch.observe_neighbours(routed - began)
        answers = zip(_split(scores, requests), near, weights, strict=True)
        return [_scored(own, rows, w, snapshot, mask) for own, rows, w in answers]

    def _now(self) -> tuple[Mask, Snapshot]:
        mask = self._masks.mask()
        try:
            return mask, self._snapshots.of(mask.generation)
        except Damaged:
            # The worker may have erased that generation while it was being read, having published a newer one.
            newer = self._masks.mask()
            if newer.generation == mask.generation:
                raise
            return newer, self._snapshots.of(newer.generation)

    def _route(self, contexts: Contexts, snapshot: Snapshot, mask: Mask) -> tuple[Indices, Floats]:
        near = snapshot.neighbours.nearest(
            contexts.embeddings.cpu().numpy(), snapshot.config.top_n, snapshot.hidden_rows(mask.rows)
        )
        error_k = mean_errors(snapshot.errors, near)
        return near, softmax_weights(error_k, snapshot.config.tau, snapshot.allowed(mask.adapters))

    def _answer(
        self, requests: Sequence[EncodedRequest], contexts: Contexts, weights: Floats, snapshot: Snapshot
    ) -> list[float]:
        owner = [number for number, request in enumerate(requests) for _ in request.questions]
        if not owner:
            return []
        rows = torch.tensor(owner, device=self._frozen.device)
        row_weights = torch.from_numpy(weights[owner])  # (rows, K)
        config = snapshot.config
        questions = [question for request in requests for question in request.questions]
        if config.activation == "question":
            difference = snapshot.mixture.answer(
                questions, contexts.rows(rows), snapshot.stack, row_weights, config.level
            )
        else:
            whole = [requests[number].context + question for number, question in zip(owner, questions, strict=True)]
            difference = snapshot.mixture.answer_whole(whole, snapshot.stack, row_weights, config.level)
        scores: list[float] = torch.sigmoid(difference).tolist()
        return scores


def _split(scores: Sequence[float], requests: Sequence[EncodedRequest]) -> list[tuple[float, ...]]:
    ends = list(accumulate(len(request.questions) for request in requests))
    starts = [0, *ends[:-1]]
    return [tuple(scores[start:end]) for start, end in zip(starts, ends, strict=True)]


def _scored(scores: tuple[float, ...], near: Indices, weights: Floats, snapshot: Snapshot, mask: Mask) -> Scored:
    return Scored(
        scores=scores,
        weights=dict(zip(snapshot.stack.digests, weights.tolist(), strict=True)),
        neighbours=tuple(snapshot.row_keys[row] for row in near.tolist()),
        generation=snapshot.generation,
        fence=mask.fence,
        degraded=not snapshot.allowed(mask.adapters).any(),
    )

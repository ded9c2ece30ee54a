"""A batch of requests -> P(Yes) of every candidate. Reads as the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from time import perf_counter
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from service.llm.frozen import FrozenModel
from service.llm.packed import FORWARD_TOKENS, Prefix, chunks_of_tokens
from service.records import Mask
from service.routing.weights import keep_largest, mean_errors, softmax_weights
from service.scoring.device_memory import within_memory
from service.scoring.encoding import RequestEncoder
from service.scoring.prefix_cache import PrefixCache
from service.scoring.requests import EncodedRequest, Scored, ScoreRequest
from service.scoring.snapshot import MaskSource, Snapshot, Snapshots

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class Stopwatch(Protocol):
    """Takes the seconds that the parts of a batch took."""

    def observe_forward(self, seconds: float) -> None: ...

    def observe_neighbors(self, seconds: float) -> None: ...


class Scorer:
    """Scores under the mask that the ledger holds at the moment the batch starts.

    `forward_tokens` bounds the tokens of one forward pass (a longer text goes alone); `kept` remembers contexts.
    """

    def __init__(
        self,
        masks: MaskSource,
        snapshots: Snapshots,
        frozen: FrozenModel,
        stopwatch: Stopwatch,
        kept: PrefixCache | None = None,
        forward_tokens: int = FORWARD_TOKENS,
    ) -> None:
        self._masks = masks
        self._snapshots = snapshots
        self._frozen = frozen
        self._stopwatch = stopwatch
        self._kept = kept or PrefixCache(0)
        self._forward_tokens = forward_tokens
        self._tokenizer = RequestEncoder(frozen.tokenizer)

    def encoded(self, requests: Sequence[ScoreRequest]) -> list[EncodedRequest]:
        """The requests in token ids, for whoever asks without a recommender. Raises as `score` does."""
        _, snapshot = self._snapshots.served(self._masks)
        return [self._tokenizer.encode(request, snapshot.item_type) for request in requests]

    def score(self, requests: Sequence[EncodedRequest]) -> list[Scored]:
        """One answer a request; texts of all requests share the forward passes.

        Raises:
            LedgerUnavailable: the mask cannot be known, so nothing may be scored.
            NotReady, Damaged: there is no generation to score with.
            OutOfMemory: the device's memory is full. What was kept of contexts is given up for it.
        """
        return within_memory(lambda: self._score(requests), self._kept.clear)

    def _score(self, requests: Sequence[EncodedRequest]) -> list[Scored]:
        mask, snapshot = self._snapshots.served(self._masks)
        began = perf_counter()
        prefixes = self._read(requests, mask.fence)
        near, weights = self._route(prefixes, snapshot, mask)
        routed = perf_counter()
        scores = self._answer(
            _texts(requests, whole=snapshot.config.activation == "prompt"), prefixes, weights, snapshot
        )
        self._stopwatch.observe_forward(perf_counter() - routed)
        self._stopwatch.observe_neighbors(routed - began)
        answers = zip(_split(scores, requests), near, weights, strict=True)
        return [_scored(own, rows, w, snapshot, mask) for own, rows, w in answers]

    def _read(self, requests: Sequence[EncodedRequest], fence: int) -> list[Prefix]:
        """What the frozen model makes of each request's context: remembered, or read now."""
        known = [self._kept.get(request.context, fence) for request in requests]
        missing = [request for request, prefix in zip(requests, known, strict=True) if prefix is None]
        read: list[Prefix] = []
        for chunk in chunks_of_tokens([len(request.context) for request in missing], self._forward_tokens):
            read += self._frozen.read_prefixes([missing[place].context for place in chunk])
        for request, prefix in zip(missing, read, strict=True):
            # A history that was read before a deletion may be that person's, whatever was deleted since.
            if request.fence == fence:
                self._kept.put(request.context, prefix, fence)
        found = iter(read)
        return [next(found) if prefix is None else prefix for prefix in known]

    def _route(self, prefixes: Sequence[Prefix], snapshot: Snapshot, mask: Mask) -> tuple[Indices, Floats]:
        config = snapshot.config
        stands = torch.stack([prefix.embedding for prefix in prefixes]).cpu().numpy()
        near = snapshot.neighbors.nearest(stands, config.top_n, snapshot.hidden_rows(mask.rows))
        weights = softmax_weights(mean_errors(snapshot.errors, near), config.tau, snapshot.allowed(mask.adapters))
        return near, keep_largest(weights, config.top_m)

    def _answer(
        self, texts: Sequence[_Text], prefixes: Sequence[Prefix], weights: Floats, snapshot: Snapshot
    ) -> list[float]:
        config = snapshot.config
        scores: list[float] = []
        for chunk in chunks_of_tokens([len(text.ids) for text in texts], self._forward_tokens):
            runs = [(number, list(run)) for number, run in groupby((texts[place] for place in chunk), key=_owner)]
            owners = [number for number, _ in runs]
            difference = snapshot.mixture.yes_no_logits_packed(
                [text.ids for _, run in runs for text in run],
                [len(run) for _, run in runs],
                [] if config.activation == "prompt" else [prefixes[owner] for owner in owners],
                snapshot.stack,
                torch.from_numpy(weights[owners]),
                config.level,
            )
            scores += torch.sigmoid(difference).tolist()
        return scores


@dataclass(frozen=True, slots=True)
class _Text:
    owner: int  # number of the request that it belongs to
    ids: tuple[int, ...]


def _texts(requests: Sequence[EncodedRequest], *, whole: bool) -> list[_Text]:
    """What is to be answered: the questions, or with activation `prompt` the `whole` of context and question."""
    return [
        _Text(number, request.context + question if whole else question)
        for number, request in enumerate(requests)
        for question in request.questions
    ]


def _owner(text: _Text) -> int:
    return text.owner


def _split(scores: Sequence[float], requests: Sequence[EncodedRequest]) -> list[tuple[float, ...]]:
    ends = list(accumulate(len(request.questions) for request in requests))
    starts = [0, *ends[:-1]]
    return [tuple(scores[start:end]) for start, end in zip(starts, ends, strict=True)]


def _scored(scores: tuple[float, ...], near: Indices, weights: Floats, snapshot: Snapshot, mask: Mask) -> Scored:
    return Scored(
        scores=scores,
        weights=dict(zip(snapshot.stack.digests, weights.tolist(), strict=True)),
        neighbors=tuple(snapshot.row_keys[row] for row in near.tolist()),
        generation=snapshot.generation,
        fence=mask.fence,
        degraded=not snapshot.allowed(mask.adapters).any(),
        revision=mask.revision,
    )

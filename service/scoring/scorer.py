"""A batch of requests -> P(Yes) of every candidate. Reads as the algorithm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
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
Ids = tuple[int, ...]


class Stopwatch(Protocol):
    """Takes the seconds that the parts of a batch took."""

    def observe_forward(self, seconds: float) -> None: ...

    def observe_neighbors(self, seconds: float) -> None: ...


class Untimed:
    """A stopwatch that nobody reads."""

    def observe_forward(self, seconds: float) -> None: ...

    def observe_neighbors(self, seconds: float) -> None: ...


class Scorer:
    """Scores under the mask that the ledger holds at the moment the batch starts.

    `forward_tokens` bounds the tokens of one forward pass (a longer text goes alone).
    """

    def __init__(
        self,
        masks: MaskSource,
        snapshots: Snapshots,
        frozen: FrozenModel,
        stopwatch: Stopwatch,
        prefix_cache: PrefixCache | None = None,
        forward_tokens: int = FORWARD_TOKENS,
    ) -> None:
        self._masks = masks
        self._snapshots = snapshots
        self._frozen = frozen
        self._stopwatch = stopwatch
        self._prefix_cache = prefix_cache or PrefixCache(0)
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
        return within_memory(lambda: self._score(requests), self._prefix_cache.clear)

    def _score(self, requests: Sequence[EncodedRequest]) -> list[Scored]:
        mask, snapshot = self._snapshots.served(self._masks)
        began = perf_counter()
        prefixes = self._read(requests, mask.fence)
        near, weights = self._route(prefixes, snapshot, mask)
        routed = perf_counter()
        scores = self._answer(requests, prefixes, weights, snapshot)
        self._stopwatch.observe_forward(perf_counter() - routed)
        self._stopwatch.observe_neighbors(routed - began)
        answers = zip(scores, near, weights, strict=True)
        return [_scored(tuple(own), rows, w, snapshot, mask) for own, rows, w in answers]

    def _read(self, requests: Sequence[EncodedRequest], fence: int) -> list[Prefix]:
        """What the frozen model makes of each request's context: remembered, or read now."""
        known = [self._prefix_cache.get(request.context, fence) for request in requests]
        missing = [request for request, prefix in zip(requests, known, strict=True) if prefix is None]
        read: list[Prefix] = []
        for chunk in chunks_of_tokens([len(request.context) for request in missing], self._forward_tokens):
            read += self._frozen.read_prefixes([missing[place].context for place in chunk])
        for request, prefix in zip(missing, read, strict=True):
            # A history that was read before a deletion may be that person's, whatever was deleted since.
            if request.fence == fence:
                self._prefix_cache.put(request.context, prefix, fence)
        found = iter(read)
        return [next(found) if prefix is None else prefix for prefix in known]

    def _route(self, prefixes: Sequence[Prefix], snapshot: Snapshot, mask: Mask) -> tuple[Indices, Floats]:
        config = snapshot.config
        stands = torch.stack([prefix.embedding for prefix in prefixes]).cpu().numpy()
        near = snapshot.neighbors.nearest(stands, config.top_n, snapshot.hidden_rows(mask.rows))
        weights = softmax_weights(mean_errors(snapshot.errors, near), config.tau, snapshot.allowed(mask.adapters))
        return near, keep_largest(weights, config.top_m)

    def _answer(
        self, requests: Sequence[EncodedRequest], prefixes: Sequence[Prefix], weights: Floats, snapshot: Snapshot
    ) -> list[list[float]]:
        """P(Yes) of every candidate, request by request."""
        config = snapshot.config
        whole = config.activation == "prompt"
        scores: list[list[float]] = [[] for _ in requests]
        for texts in _passes([_texts(request, whole=whole) for request in requests], self._forward_tokens):
            counts = [len(own) for own in texts.values()]
            difference = snapshot.mixture.yes_no_logits_packed(
                [*chain.from_iterable(texts.values())],
                counts,
                [] if whole else [prefixes[number] for number in texts],
                snapshot.stack,
                torch.from_numpy(weights[[*texts]]),
                config.level,
            )
            for number, answered in zip(texts, torch.sigmoid(difference).cpu().split(counts), strict=True):
                scores[number] += answered.tolist()
        return scores


def _texts(request: EncodedRequest, *, whole: bool) -> Sequence[Ids]:
    """What is to be answered: the questions, or with activation `prompt` the `whole` of context and question."""
    return [request.context + question for question in request.questions] if whole else request.questions


def _passes(texts: Sequence[Sequence[Ids]], most: int) -> Iterator[dict[int, list[Ids]]]:
    """Number of the request -> those of its texts that one pass answers: of all together `most` tokens, or a single text."""
    taken: dict[int, list[Ids]] = {}
    tokens = 0
    for number, own in enumerate(texts):
        for text in own:
            if taken and tokens + len(text) > most:
                yield taken
                taken, tokens = {}, 0
            taken.setdefault(number, []).append(text)
            tokens += len(text)
    if taken:
        yield taken


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

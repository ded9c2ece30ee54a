"""One query, from what is asked to ranked items: history, candidates, scores, order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import anyio
import anyio.to_thread
import numpy as np

from service.errors import UnknownItem
from service.llm.frozen import FrozenModel
from service.records import Item, Mask, Opinion
from service.scoring.encoding import RequestEncoder
from service.scoring.requests import EncodedRequest, Query, Ranked, Recommendation, Scored, ScoreRequest
from service.scoring.snapshot import Snapshot, Snapshots

RETRIEVED = 100  # candidates taken from the catalogue when a query names none

# Preparations at a time. They share one interpreter with scoring, so more would end none sooner; and the ledger keeps that many
# connections open.
_PREPARING = 4


class Catalogue(Protocol):
    """The ledger, as far as a query needs it."""

    def history(self, user_id: str, limit: int) -> tuple[Opinion, ...]: ...

    def seen(self, user_id: str) -> frozenset[str]: ...

    def items_by_id(self, ids: Sequence[str]) -> dict[str, Item]: ...

    def items_named(self, names: Sequence[str]) -> dict[str, Item]: ...

    def generation(self) -> str | None: ...

    def mask(self) -> Mask: ...


class Queue(Protocol):
    """The batcher."""

    def admit(self, timeout: float) -> None: ...

    async def submit(self, request: EncodedRequest, timeout: float) -> Scored: ...


class Recommender:
    """Answers queries with the published generation."""

    def __init__(
        self, catalogue: Catalogue, snapshots: Snapshots, frozen: FrozenModel, queue: Queue, timeout: float
    ) -> None:
        self._catalogue = catalogue
        self._snapshots = snapshots
        self._frozen = frozen
        self._encoder = RequestEncoder(frozen.encoder)
        self._queue = queue
        self._timeout = timeout
        self._preparing = anyio.CapacityLimiter(_PREPARING)

    async def recommend(self, query: Query) -> Recommendation:
        """The `top_k` best candidates.

        Raises:
            UnknownUser, UnknownItem: of the query's names; nothing of them is repeated in the message.
            Overloaded, TimedOut, NotReady, LedgerUnavailable: no answer now.
        """
        self._queue.admit(self._timeout)
        asked, encoded = await anyio.to_thread.run_sync(self.prepare, query, limiter=self._preparing)
        scored = await self._queue.submit(encoded, self._timeout)
        best = sorted(range(len(scored.scores)), key=lambda number: -scored.scores[number])[: query.top_k]
        items = tuple(
            Ranked(asked.candidates[n].item_id or None, asked.candidates[n].title, scored.scores[n], rank)
            for rank, n in enumerate(best, 1)
        )
        return Recommendation(
            scored.generation, scored.fence, scored.degraded, items, scored.weights, scored.neighbours
        )

    def prepare(self, query: Query) -> tuple[ScoreRequest, EncodedRequest]:
        """What a query wants to have scored: in items, and in token ids. It asks the ledger, so it blocks."""
        # What is in memory will do here: history length, catalogue and noun. The batch decides which generation scores.
        snapshot = self._snapshots.current or self._snapshots.of(self._catalogue.generation())
        fence = self._catalogue.mask().fence  # before the history: a deletion in between must be seen
        named = self._catalogue.items_named(query.names) if query.names else {}
        history = self._history(query, named, snapshot)
        if query.candidates is None:
            candidates = self._retrieve(history, self._seen(query, history), snapshot)
        else:
            candidates = _items(query.candidates, named)
        request = ScoreRequest(history, tuple(candidates), fence)
        return request, self._encoder.encode(request, snapshot.noun)

    def _history(self, query: Query, named: Mapping[str, Item], snapshot: Snapshot) -> tuple[Opinion, ...]:
        if query.user_id is not None:
            return self._catalogue.history(query.user_id, snapshot.config.history_length)
        liked = (Opinion(item, True) for item in _items(query.liked, named))
        disliked = (Opinion(item, False) for item in _items(query.disliked, named))
        return (*liked, *disliked)

    def _seen(self, query: Query, history: Sequence[Opinion]) -> frozenset[str]:
        if query.user_id is not None:
            return self._catalogue.seen(query.user_id)
        return frozenset(opinion.item.item_id for opinion in history)

    def _retrieve(self, history: Sequence[Opinion], seen: frozenset[str], snapshot: Snapshot) -> list[Item]:
        """Unseen items of the catalogue, nearest to the mean of what was liked (or of all that was seen)."""
        anchors = [opinion.item for opinion in history if opinion.liked] or [opinion.item for opinion in history]
        if not snapshot.item_ids:
            raise UnknownItem("the catalogue is empty, so candidates cannot be retrieved; name them in `candidates`")
        center = self._embed(anchors, snapshot) if anchors else snapshot.item_embeddings.mean(axis=0)
        hidden = [snapshot.item_number[item_id] for item_id in seen if item_id in snapshot.item_number]
        numbers = snapshot.catalogue.nearest(center[None].astype(np.float32), RETRIEVED, hidden)[0]
        ids = [snapshot.item_ids[number] for number in numbers]
        items = self._catalogue.items_by_id(ids)
        return [items[item_id] for item_id in ids if item_id in items]

    def _embed(self, items: Sequence[Item], snapshot: Snapshot) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        known = [snapshot.item_number[item.item_id] for item in items if item.item_id in snapshot.item_number]
        foreign = [self._frozen.encoder.item(item) for item in items if item.item_id not in snapshot.item_number]
        rows = [snapshot.item_embeddings[known]] if known else []
        rows += [self._frozen.embed(foreign).cpu().numpy()] if foreign else []
        center = np.concatenate(rows).mean(axis=0)
        return np.asarray(center, dtype=np.float32)


def _items(names: Sequence[str], named: Mapping[str, Item]) -> list[Item]:
    """A title that no catalogue knows is an item without an id: the model reads text."""
    return [named.get(name) or Item("", name) for name in names]

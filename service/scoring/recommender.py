"""One query, from what is asked to ranked items: history, candidates, scores, order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from service.errors import TooLarge, UnknownItem, UnknownUser
from service.llm.frozen import FrozenModel
from service.memory.live import LiveCounts
from service.memory.retrieval import Taste, liked_next, liked_together
from service.records import ById, ByTitle, Item, ItemName, Mask, RatedItem
from service.scoring.device_memory import within_memory
from service.scoring.diversity import diversified
from service.scoring.encoding import RequestEncoder
from service.scoring.ranking import Reasons, because, bounded, reasons, values
from service.scoring.requests import (
    NOBODY,
    EncodedRequest,
    Payer,
    Query,
    RankBy,
    Ranked,
    Recommendation,
    Scored,
    ScoreRequest,
)
from service.scoring.shelf import Shelves
from service.scoring.snapshot import Snapshot, Snapshots

RETRIEVED = 40  # candidates that compete for the last places, beside as many as are wanted, when a query names none
REMEMBERED = 300  # opinions of a person that are read, the newest
_BECAUSE = 3  # items of the history that an explanation names

# Preparations at a time. They share one interpreter with scoring, so more would end none sooner; and the ledger keeps that many
# connections open. One caller may not take all of them.
_PREPARING = 4
_PREPARING_OF_ONE = 3
MOST_TOKENS = 16_384  # of one request


class Catalog(Protocol):
    """The ledger, as far as a query needs it."""

    def history(self, user_id: str, limit: int) -> tuple[RatedItem, ...]: ...

    def has_order(self, user_id: str) -> bool: ...

    def seen(self, user_id: str) -> frozenset[str]: ...

    def items_by_id(self, ids: Sequence[str]) -> dict[str, Item]: ...

    def items_meant(self, names: Sequence[ItemName]) -> dict[ItemName, list[Item]]: ...

    def mask(self) -> Mask: ...


class Queue(Protocol):
    """The batcher."""

    def admit(self, timeout: float, caller: str) -> None: ...

    async def submit(self, request: EncodedRequest, timeout: float, caller: str) -> Scored: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A query before it is scored, and what the counts say of it under one revision of the mask."""

    request: ScoreRequest
    encoded: EncodedRequest
    revision: int
    snapshot: Snapshot
    live: LiveCounts
    history: Mapping[int, Item]  # what the catalog knows of it, by number
    taste: Taste
    reasons: Reasons
    item_model: bool  # whether it speaks, too
    numbers: tuple[int | None, ...]  # of the candidates in the catalog
    cold: bool  # nothing is held of the user who asks
    names: Mapping[tuple[str, str], tuple[ItemName, ...]]  # of named candidates, by their ids and titles


class Recommender:
    """Answers queries with the published generation."""

    def __init__(
        self,
        catalog: Catalog,
        snapshots: Snapshots,
        frozen: FrozenModel,
        queue: Queue,
        timeout: float,
        shelves: Shelves | None = None,
        most_tokens: int = MOST_TOKENS,
    ) -> None:
        """Without `shelves` every item of the catalog may be shown, and no filter can be asked for."""
        self._catalog = catalog
        self._shelves = shelves
        self._snapshots = snapshots
        self._frozen = frozen
        self._tokenizer = RequestEncoder(frozen.tokenizer)
        self._queue = queue
        self._timeout = timeout
        self._most_tokens = most_tokens
        self._preparing = anyio.CapacityLimiter(_PREPARING)
        self._preparing_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def recommend(self, query: Query, payer: Payer = NOBODY) -> Recommendation:
        """The `top_k` best candidates.

        Raises:
            UnknownUser, UnknownItem: of the query's names; nothing of them is repeated in the message.
            TooLarge: it would take more tokens than one request may.
            QuotaExceeded: the payer has used up theirs.
            Overloaded, TimedOut, NotReady, LedgerUnavailable: no answer now.
        """
        self._queue.admit(self._timeout, payer.name)
        charged = False
        while True:
            prepared = await self._prepared(query, payer, charged)
            charged = True
            scored = await self._queue.submit(prepared.encoded, self._timeout, payer.name)
            # Counts and scores are of one mask: a deletion that came between them must not leave the person in the order.
            if scored.revision == prepared.revision:
                return answer(query, prepared, scored)

    async def _prepared(self, query: Query, payer: Payer, charged: bool) -> Prepared:
        own = self._preparing_of.setdefault(payer.name, asyncio.Semaphore(_PREPARING_OF_ONE))
        async with own:
            return await anyio.to_thread.run_sync(
                self._prepare_and_charge, query, payer, charged, limiter=self._preparing
            )

    def _prepare_and_charge(self, query: Query, payer: Payer, charged: bool) -> Prepared:
        prepared = self.prepare(query)
        if not payer.free_titles:
            _require_known(prepared.request.candidates)
        tokens = prepared.encoded.tokens
        if tokens > self._most_tokens:
            raise TooLarge(
                f"The request would take {tokens} tokens, and one request may take {self._most_tokens}. Name fewer "
                "candidates, or shorter titles."
            )
        if not charged:  # what is prepared again, because a deletion came between, is paid once
            payer.charge(tokens)
        return prepared

    def prepare(self, query: Query) -> Prepared:
        """What a query wants to have scored: in items, and in token ids. It asks the ledger, so it blocks."""
        # The mask before the history: a deletion in between must be seen.
        mask, snapshot = self._snapshots.served(self._catalog)
        live = snapshot.live(mask)
        named = self._named(query, snapshot, live)
        history, cold = self._history(query, named)
        taste = self._taste(query, history, snapshot)
        # It has seen everybody, so from any mask on it is out.
        item_model = snapshot.item_model if mask.empty else None
        found = reasons(live, taste, item_model, snapshot.content)
        out = _excluded(query, named)
        if query.candidates is None:
            shown = self._shown(query, snapshot)
            seen = self._seen(query, history) | out
            candidates = self._retrieve(history, seen, found, snapshot, shown, query.offset + query.top_k + RETRIEVED)
        else:
            given = _distinct(_items(query.candidates, named))
            wanted = [item for item in given if not item.item_id or item.item_id not in out]
            candidates = self._allowed(wanted, query)
        # Whoever states a history has chosen it; of a person's own the newest part is what adapters were trained on.
        read = history if query.user_id is None else history[-snapshot.config.history_length :]
        request = ScoreRequest(read, tuple(candidates), mask.fence)
        encoded = self._tokenizer.encode(request, snapshot.item_type)
        return Prepared(
            request,
            encoded,
            mask.revision,
            snapshot,
            live,
            _known(history, snapshot),
            taste,
            found,
            item_model is not None,
            tuple(snapshot.item_number.get(item.item_id) for item in candidates),
            cold,
            _names(query.candidates or (), named),
        )

    def _shown(self, query: Query, snapshot: Snapshot) -> NDArray[np.bool_] | None:
        """(N,): what may be shown now, and is wanted; None for everything."""
        if self._shelves is None:
            return None
        shelf, now = self._shelves.current(), self._shelves.clock()
        return shelf.shown(snapshot.generation, snapshot.item_number, query.conditions, now)

    def _allowed(self, items: Sequence[Item], query: Query) -> list[Item]:
        """Those of the named candidates that may be shown; of a title that no catalog knows nothing forbids it."""
        if self._shelves is None:
            return list(items)
        shelf, now = self._shelves.current(), self._shelves.clock()
        return [item for item in items if not item.item_id or shelf.shows(item.item_id, query.conditions, now)]

    def _named(self, query: Query, snapshot: Snapshot, live: LiveCounts) -> dict[ItemName, Item]:
        """The item that each name means: of several, that which most people have met."""
        meant = self._catalog.items_meant(query.names) if query.names else {}

        def known(item: Item) -> int:
            number = snapshot.item_number.get(item.item_id)
            return -1 if number is None else int(live.likes[number] + live.dislikes[number])

        return {name: max(items, key=known) for name, items in meant.items()}

    def _history(self, query: Query, named: Mapping[ItemName, Item]) -> tuple[tuple[RatedItem, ...], bool]:
        """What is read of the past, and whether nothing is held of the user who asks."""
        if query.user_id is not None:
            try:
                return self._catalog.history(query.user_id, REMEMBERED), False
            except UnknownUser:
                if query.strict:
                    raise
                return (), True
        items = _items([name for name, _ in query.opinions], named)
        return tuple(RatedItem(item, liked) for item, (_, liked) in zip(items, query.opinions, strict=True)), False

    def _taste(self, query: Query, history: Sequence[RatedItem], snapshot: Snapshot) -> Taste:
        known = {
            snapshot.item_number[o.item.item_id]: o.liked for o in history if o.item.item_id in snapshot.item_number
        }
        ordered = query.user_id is None or self._catalog.has_order(query.user_id)
        return Taste(tuple(known), tuple(known.values()), ordered)

    def _seen(self, query: Query, history: Sequence[RatedItem]) -> frozenset[str]:
        if query.user_id is not None:
            return self._catalog.seen(query.user_id)
        return frozenset(opinion.item.item_id for opinion in history)

    def _retrieve(
        self,
        history: Sequence[RatedItem],
        seen: frozenset[str],
        found: Reasons,
        snapshot: Snapshot,
        shown: NDArray[np.bool_] | None,
        count: int,
    ) -> list[Item]:
        """Unseen items of the catalog of which most speaks for them; where no counts do, the nearest in content.

        Only items that are `shown` (N,) compete, so that a narrow filter finds as many as a wide one.

        A history of titles that no catalog knows says too little for that: it gets what is liked by many, if anything is.
        """
        if not snapshot.item_ids:
            raise UnknownItem("the catalog is empty, so candidates cannot be retrieved; name them in `candidates`")
        known = any(opinion.item.item_id in snapshot.item_number for opinion in history)
        counted = found.personal or not history or (found.popular.any() and not known)
        value = found.value if counted else self._nearness(history, snapshot)
        order = np.argsort(-value, kind="stable")
        numbers = (order if shown is None else order[shown[order]])[: count + len(seen)]
        ids = [snapshot.item_ids[number] for number in numbers]
        unseen = [item_id for item_id in ids if item_id not in seen][:count]
        items = self._catalog.items_by_id(unseen)
        return [items[item_id] for item_id in unseen if item_id in items]

    def _nearness(self, history: Sequence[RatedItem], snapshot: Snapshot) -> NDArray[np.float64]:
        """(N,): how near each item is to the mean of what was liked (or of all that was seen)."""
        anchors = [opinion.item for opinion in history if opinion.liked] or [opinion.item for opinion in history]
        known = [snapshot.item_number[item.item_id] for item in anchors if item.item_id in snapshot.item_number]
        foreign = [self._frozen.tokenizer.item(item) for item in anchors if item.item_id not in snapshot.item_number]
        rows = [snapshot.item_embeddings[known]] if known else []
        rows += [within_memory(lambda: self._frozen.embed(foreign)).cpu().numpy()] if foreign else []
        return np.asarray(snapshot.item_embeddings @ np.concatenate(rows).mean(axis=0), np.float64)


def answer(query: Query, prepared: Prepared, scored: Scored) -> Recommendation:
    """The scored candidates in order."""
    scores = np.array(scored.scores, np.float64)
    by_model = query.ranked_by is RankBy.MODEL
    value = values(prepared.reasons, prepared.numbers, _logits(scores)) if by_model else scores
    value = bounded(value, [not item.item_id for item in prepared.request.candidates])
    best = _order(query, prepared, value)[query.offset :]
    first = query.offset + 1
    chosen = prepared.request.candidates
    ranked = [
        Ranked(item.item_id or None, item.title, float(scores[n]), rank, names=prepared.names.get(_identity(item), ()))
        for rank, (n, item) in enumerate(((n, chosen[n]) for n in best), first)
    ]
    items = tuple(_explained(ranked, [prepared.numbers[n] for n in best], prepared) if query.explain else ranked)
    return Recommendation(
        generation=scored.generation,
        fence=scored.fence,
        degraded=scored.degraded,
        items=items,
        weights=scored.weights,
        neighbors=scored.neighbors,
        ranked_by=query.ranked_by,
        memories=prepared.live.digests,
        item_model=prepared.item_model,
        cold=prepared.cold,
    )


def _order(query: Query, prepared: Prepared, value: NDArray[np.float64]) -> list[int]:
    """The places of the best candidates, as many as the page and all before it have."""
    count = query.offset + query.top_k
    if not query.diversity:
        return [int(n) for n in np.argsort(-value, kind="stable")[:count]]
    known = prepared.snapshot.item_embeddings
    rows = np.zeros((len(value), known.shape[1] if known.ndim == 2 else 0))
    for place, number in enumerate(prepared.numbers):
        if number is not None:
            rows[place] = known[number] / (np.linalg.norm(known[number]) or 1.0)
    return diversified(value, rows, count, query.diversity)


def _excluded(query: Query, named: Mapping[ItemName, Item]) -> frozenset[str]:
    """Ids of what the caller wants to be left out; a name that no item has leaves out nothing."""
    return frozenset(named[name].item_id for name in query.exclude if name in named)


def _known(history: Sequence[RatedItem], snapshot: Snapshot) -> dict[int, Item]:
    numbers = snapshot.item_number
    return {numbers[o.item.item_id]: o.item for o in history if o.item.item_id in numbers}


def _identity(item: Item) -> tuple[str, str]:
    return item.item_id, item.title


def _names(given: Sequence[ItemName], named: Mapping[ItemName, Item]) -> dict[tuple[str, str], tuple[ItemName, ...]]:
    found: dict[tuple[str, str], tuple[ItemName, ...]] = {}
    for name, item in zip(given, _items(given, named), strict=True):
        found[_identity(item)] = (*found.get(_identity(item), ()), name)
    return found


def _explained(ranked: Sequence[Ranked], numbers: Sequence[int | None], prepared: Prepared) -> list[Ranked]:
    """With the parts of the value, and the items of the history that speak most for each."""
    found = [*liked_together(prepared.live, prepared.taste), *liked_next(prepared.live, prepared.taste)]
    return [
        item
        if number is None
        else replace(
            item,
            parts=prepared.reasons.parts(number),
            because=tuple(prepared.history[source] for source in because(found, number, _BECAUSE)),
        )
        for item, number in zip(ranked, numbers, strict=True)
    ]


def _logits(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    bounded = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(bounded / (1 - bounded)))


def _require_known(candidates: Sequence[Item]) -> None:
    """Raises UnknownItem if a candidate is a title that no catalog knows: worded to please the model, it would rank first."""
    if free := sum(not item.item_id for item in candidates):
        raise UnknownItem(
            f"{free} of the candidates are titles that no item of the catalog has, and only items of the catalog are ranked "
            "here (LETHE_CATALOG_ONLY); name items of the catalog, or ask with a key that has the scope `titles`"
        )


def _items(names: Sequence[ItemName], named: Mapping[ItemName, Item]) -> list[Item]:
    """A title that no catalog knows is an item without an id: the model reads text. Raises UnknownItem for an id."""
    return [named.get(name) or _foreign(name) for name in names]


def _foreign(name: ItemName) -> Item:
    if isinstance(name, ById):
        raise UnknownItem(
            "an item_id names no item of the catalog; name the item by its title to have that read instead"
        )
    return Item("", name.title if isinstance(name, ByTitle) else name)


def _distinct(items: Sequence[Item]) -> list[Item]:
    """Each item once, where it stood first, however it was named."""
    return list({_identity(item): item for item in items}.values())

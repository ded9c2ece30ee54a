"""Gathers concurrent requests into batches for one scoring thread, and refuses when too much is waiting.

Policy only: it knows nothing of tensors. Work is counted in tokens that go through the layers, as they are what takes time. The
window is zero: an idle thread scores a request at once, and whatever arrives while it is busy forms the next batch. Callers
take turns, and within one caller first come is first served; a request that is larger than a batch is cut into pieces, and
waits for its next turn after each. As long as several callers are about, batches are short, and of whoever has requests that
wait already further ones are cut into small pieces: whoever else comes waits for one of these, and then for their own. All
state belongs to one event loop; the thread sees requests and nothing else.

Whoever could not be answered in time is refused on arrival: under overload, work for answers that nobody gets any more would
leave none for the others.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Protocol

from service.errors import Overloaded, TimedOut
from service.scoring.pieces import cut, joined
from service.scoring.requests import EncodedRequest, Scored
from service.scoring.throughput import Pace
from service.scoring.turns import Company, Piece, Turns, Waiting, cost_of

_LONGEST_RETRY = 60  # seconds
_WAITING = (
    0.5  # share of a request's time that it may spend in the queue: its own batch takes time, and a forecast errs
)
_ABOUT = 60.0  # seconds since a caller last asked
_SHORT = 0.01  # seconds that a batch takes while several callers are about
_LEAST_SHORT = 128  # tokens; to score fewer at a time costs more than it spares others
_LEAST_PIECE = 512  # tokens; each reads its context again, or finds it, and takes what a small request does


class BatchScorer(Protocol):
    """Scores several requests in one forward pass; one answer per request, in order."""

    def score(self, requests: Sequence[EncodedRequest]) -> list[Scored]: ...


class BatchObserver(Protocol):
    """Hears of every batch that is about to be scored, and of every change of the queue. Both counts are tokens."""

    def observe_batch(self, tokens: int, queue_depth: int) -> None: ...

    def observe_queue(self, queue_depth: int) -> None: ...


class Batcher:
    """`start` it in the event loop that submits to it; `stop` finishes what is queued and refuses the rest.

    `max_tokens` bounds one piece and one batch, which are smaller while several callers are about; `max_queued_tokens` what
    waits, of which each waiting caller has an equal part. A single question that alone is larger than a bound still runs, by
    itself.
    """

    def __init__(self, scorer: BatchScorer, observer: BatchObserver, max_tokens: int, max_queued_tokens: int) -> None:
        self._scorer = scorer
        self._observer = observer
        self._max_tokens = max_tokens
        self._max_queued_tokens = max_queued_tokens
        self._queue = Turns()
        self._in_flight: list[Piece] = []
        self._began = 0.0  # when the batch in flight did
        self._pace = Pace()
        self._company = Company(_ABOUT)
        self._arrived = asyncio.Event()
        self._accepting = False
        self._thread: ThreadPoolExecutor | None = None
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to score. Starting twice changes nothing."""
        if self._pump is not None:
            return
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")
        self._accepting = True
        self._pump = asyncio.create_task(self._serve(self._thread), name="batcher")

    async def stop(self) -> None:
        """Refuse new requests, score the queued ones, end the thread. Stopping twice changes nothing."""
        if self._pump is None or self._thread is None:
            return
        self._accepting = False
        self._arrived.set()
        try:
            await self._pump
        finally:
            self._thread.shutdown()
            self._pump = None

    def admit(self, timeout: float, caller: str = "") -> None:
        """To be asked before anything is done for a request that has so many seconds, and at no cost.

        Raises `Overloaded` when closed, and when what comes before this caller's next request would take up its time.
        """
        if not self._accepting:
            raise Overloaded("This server is not accepting requests. Try again later, or another replica.")
        if self._seconds_waiting(caller) > _WAITING * timeout:
            raise Overloaded("Too much is waiting to be scored. Try again later.", self._retry_after(caller))

    async def submit(self, request: EncodedRequest, timeout: float, caller: str = "") -> Scored:
        """The scores of `request`, within `timeout` seconds. `caller` is whose turn it takes.

        Raises `Overloaded` when it is not admitted or the queue is full, `TimedOut` when the time is up, and whatever the
        scorer raises for this request. What is still in the queue when its waiter leaves is not scored.
        """
        self.admit(timeout, caller)
        waiting = self._enqueue(request, caller)
        try:
            await asyncio.wait((waiting.answer,), timeout=timeout)
            if not waiting.answer.done():
                raise TimedOut("The scores were not ready in time. Try again later.", self._retry_after(caller))
            return waiting.answer.result()
        finally:
            self._leave(waiting)

    def _enqueue(self, request: EncodedRequest, caller: str) -> Waiting:
        self._company.note(caller, perf_counter())
        # Small pieces cost more in all, so they are for those alone who ask for more than they are answered.
        waits = self._queue.tokens_of(caller) > 0
        pieces = deque(
            cut(request, max(self._turn(), min(_LEAST_PIECE, self._max_tokens)) if waits else self._max_tokens)
        )
        waiting = Waiting(caller, pieces, asyncio.get_running_loop().create_future())
        full = self._queue.tokens + waiting.tokens > self._max_queued_tokens
        share = self._queue.share(caller, self._max_queued_tokens)
        # A queue that others have filled is not full for whoever has nothing in it yet.
        if self._queue and full and self._queue.tokens_of(caller) + waiting.tokens > share:
            raise Overloaded("Too much is waiting to be scored. Try again later.", self._retry_after(caller))
        self._queue.add(waiting)
        self._observer.observe_queue(self._queue.tokens)
        self._arrived.set()
        return waiting

    def _turn(self) -> int:
        """Tokens of a batch, at most; of one piece it may have more."""
        if not self._company.is_there(perf_counter()):
            return self._max_tokens
        return int(min(self._max_tokens, max(_LEAST_SHORT, self._pace.tokens(_SHORT))))

    def _leave(self, waiting: Waiting) -> None:
        if not waiting.answer.cancel() and not waiting.answer.cancelled():
            # Marks a failure as seen: asyncio would log it in full, and its message may hold user data.
            waiting.answer.exception()
        if self._queue.remove(waiting):
            self._observer.observe_queue(self._queue.tokens)
        waiting.pieces.clear()

    def _seconds_waiting(self, caller: str) -> float:
        """Until what this caller asks now is in a batch."""
        in_flight = self._pace.seconds(sum(cost_of(piece) for _, piece in self._in_flight))
        left = max(0.0, in_flight - (perf_counter() - self._began))
        return left + self._pace.seconds(self._queue.ahead(caller, self._turn()))

    def _retry_after(self, caller: str) -> int:
        return min(_LONGEST_RETRY, max(1, math.ceil(self._seconds_waiting(caller))))

    async def _serve(self, thread: ThreadPoolExecutor) -> None:
        try:
            while self._accepting or self._queue:
                if not self._queue:
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                self._in_flight = self._next_batch()
                await self._score(thread, self._in_flight)
                self._in_flight = []
        finally:
            self._refuse_all()

    def _next_batch(self) -> list[Piece]:
        batch = self._queue.take(self._turn())
        tokens = sum(cost_of(piece) for _, piece in batch)
        self._observer.observe_queue(self._queue.tokens)
        self._observer.observe_batch(tokens, self._queue.tokens)
        return batch

    async def _score(self, thread: ThreadPoolExecutor, batch: list[Piece]) -> None:
        """Score a batch; if it fails, score its pieces one by one, so that a bad one fails alone."""
        pieces = [piece for _, piece in batch]
        self._began = perf_counter()
        try:
            scored = await asyncio.get_running_loop().run_in_executor(thread, self._forward, pieces)
            answers = list(zip(batch, scored, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever went wrong belongs to the waiters, not to the pump
            await self._isolate(thread, batch, error)
        else:
            self._pace.learn(sum(map(cost_of, pieces)), perf_counter() - self._began)
            for (waiting, _), answer in answers:
                _settle(waiting, answer)

    def _forward(self, requests: list[EncodedRequest]) -> list[Scored]:
        try:
            return self._scorer.score(requests)
        except StopIteration as error:
            # A future cannot carry StopIteration: its waiter would never wake.
            raise RuntimeError("The scorer ran past the end of an iterator.") from error

    async def _isolate(self, thread: ThreadPoolExecutor, batch: list[Piece], error: Exception) -> None:
        if len(batch) > 1:
            for waiting, piece in batch:
                if not waiting.answer.done():
                    await self._score(thread, [(waiting, piece)])
        elif not batch[0][0].answer.done():
            batch[0][0].answer.set_exception(error)

    def _refuse_all(self) -> None:
        # Finds somebody only if the pump was cancelled or its thread died: they may not wait in vain.
        self._accepting = False
        for waiting in (*(waiting for waiting, _ in self._in_flight), *self._queue):
            if not waiting.answer.done():
                waiting.answer.set_exception(Overloaded("This server is stopping. Try again later."))


def _settle(waiting: Waiting, answer: Scored) -> None:
    waiting.scored.append(answer)
    if not waiting.pieces and not waiting.answer.done():
        waiting.answer.set_result(joined(waiting.scored))

"""Gathers concurrent requests into batches for one scoring thread, and refuses when too much is waiting.

Policy only: it knows nothing of tensors. The window is zero: an idle thread scores a request at once, and whatever arrives
while it is busy forms the next batch. All state belongs to one event loop; the thread sees requests and nothing else.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from service.errors import Overloaded, TimedOut
from service.scoring.requests import Scored, ScoreRequest

_LONGEST_RETRY = 60  # seconds


class BatchScorer(Protocol):
    """Scores several requests in one forward pass; one answer per request, in order."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scored]: ...


class BatchObserver(Protocol):
    """Hears of every batch that is about to be scored, and of every change of the queue. Both counts are rows."""

    def observe_batch(self, rows: int, queue_depth: int) -> None: ...

    def observe_queue(self, queue_depth: int) -> None: ...


@dataclass(eq=False, slots=True)
class _Waiting:
    request: ScoreRequest
    rows: int
    answer: asyncio.Future[Scored]


class Batcher:
    """`start` it in the event loop that submits to it; `stop` finishes what is queued and refuses the rest.

    `max_rows` bounds the candidates of one batch, `max_queued_rows` those that wait for a batch. A request that alone is
    larger than a bound still runs, by itself.
    """

    def __init__(
        self, scorer: BatchScorer, observer: BatchObserver, max_rows: int = 256, max_queued_rows: int = 4096
    ) -> None:
        self._scorer = scorer
        self._observer = observer
        self._max_rows = max_rows
        self._max_queued_rows = max_queued_rows
        self._queue: deque[_Waiting] = deque()
        self._in_flight: list[_Waiting] = []
        self._queued_rows = 0
        self._last_seconds = 0.0
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

    async def submit(self, request: ScoreRequest, timeout: float) -> Scored:
        """The scores of `request`, within `timeout` seconds.

        Raises `Overloaded` when the queue is full or closed, `TimedOut` when the time is up, and whatever the scorer
        raises for this request. A request whose waiter has left is not scored if it is still in the queue.
        """
        waiting = self._enqueue(request)
        try:
            await asyncio.wait((waiting.answer,), timeout=timeout)
            if not waiting.answer.done():
                raise TimedOut("The scores were not ready in time. Try again later.", self._retry_after())
            return waiting.answer.result()
        finally:
            self._leave(waiting)

    def _enqueue(self, request: ScoreRequest) -> _Waiting:
        if not self._accepting:
            raise Overloaded("This server is not accepting requests. Try again later, or another replica.")
        # A request without candidates still costs a place, or any number of them could wait.
        rows = max(1, len(request.candidates))
        if self._queue and self._queued_rows + rows > self._max_queued_rows:
            raise Overloaded("Too many candidates are waiting to be scored. Try again later.", self._retry_after())
        waiting = _Waiting(request, rows, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._count(rows)
        self._arrived.set()
        return waiting

    def _leave(self, waiting: _Waiting) -> None:
        if not waiting.answer.cancel() and not waiting.answer.cancelled():
            # Marks a failure as seen: asyncio would log it in full, and its message may hold user data.
            waiting.answer.exception()
        if waiting in self._queue:
            self._queue.remove(waiting)
            self._count(-waiting.rows)

    def _count(self, rows: int) -> None:
        self._queued_rows += rows
        self._observer.observe_queue(self._queued_rows)

    def _retry_after(self) -> int:
        batches = self._queued_rows / self._max_rows
        return min(_LONGEST_RETRY, max(1, math.ceil(batches * self._last_seconds)))

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

    def _next_batch(self) -> list[_Waiting]:
        batch = [self._queue.popleft()]
        rows = batch[0].rows
        while self._queue and rows + self._queue[0].rows <= self._max_rows:
            batch.append(self._queue.popleft())
            rows += batch[-1].rows
        self._count(-rows)
        self._observer.observe_batch(rows, self._queued_rows)
        return batch

    async def _score(self, thread: ThreadPoolExecutor, batch: list[_Waiting]) -> None:
        """Score a batch; if it fails, score its requests one by one, so that a bad one fails alone."""
        requests = [waiting.request for waiting in batch]
        began = perf_counter()
        try:
            scored = await asyncio.get_running_loop().run_in_executor(thread, self._forward, requests)
            answers = list(zip(batch, scored, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever went wrong belongs to the waiters, not to the pump
            await self._isolate(thread, batch, error)
        else:
            self._last_seconds = perf_counter() - began
            for waiting, answer in answers:
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    def _forward(self, requests: list[ScoreRequest]) -> list[Scored]:
        try:
            return self._scorer.score(requests)
        except StopIteration as error:
            # A future cannot carry StopIteration: its waiter would never wake.
            raise RuntimeError("The scorer ran past the end of an iterator.") from error

    async def _isolate(self, thread: ThreadPoolExecutor, batch: list[_Waiting], error: Exception) -> None:
        if len(batch) > 1:
            for waiting in batch:
                if not waiting.answer.done():
                    await self._score(thread, [waiting])
        elif not batch[0].answer.done():
            batch[0].answer.set_exception(error)

    def _refuse_all(self) -> None:
        # Finds somebody only if the pump was cancelled or its thread died: they may not wait in vain.
        self._accepting = False
        for waiting in (*self._in_flight, *self._queue):
            if not waiting.answer.done():
                waiting.answer.set_exception(Overloaded("This server is stopping. Try again later."))

"""Recommendations for many people into one file, by the way that a request over HTTP goes.

What differs is the queue: nobody is refused, and each request is scored alone, so that no bit of an answer depends on who was
asked for beside it. A person of whom nothing may be used (unknown, forgotten, restricted) has no rows in the file; a stranger's
answer would be the same for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, Self

from service.errors import UnknownUser
from service.scoring.pieces import cut, joined
from service.scoring.requests import EncodedRequest, Query, Recommendation, Scored

COLUMNS = {
    "user_id": str,
    "rank": int,
    "item_id": str,
    "title": str,
    "score": float,
    "generation": str,
    "fence": int,
    "degraded": bool,
}
_AT_ONCE = 3  # people under way: while one is scored, others are prepared


class PeopleLedger(Protocol):
    """The ledger, as far as it says who was forgotten meanwhile."""

    def forgotten_since(self, fence: int, users: Collection[str]) -> tuple[int, frozenset[str]]: ...


class PeopleFile(Protocol):
    """A file of rows (`COLUMNS`) that is not there before it is finished."""

    def write(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def batches(self) -> Iterator[Sequence[Any]]: ...

    def drop(self, column: str, values: Collection[str]) -> int: ...

    def finish(self) -> None: ...


class Recommending(Protocol):
    """The recommender, over `OneByOne`."""

    async def recommend(self, query: Query) -> Recommendation: ...


class Scoring(Protocol):
    """Scores requests."""

    def score(self, requests: Sequence[EncodedRequest]) -> list[Scored]: ...


class OneByOne:
    """Stands where the batcher does: it scores each request alone, in pieces of `most_tokens` as the batcher would.

    Use it as a context manager, which ends its thread.
    """

    def __init__(self, scorer: Scoring, most_tokens: int) -> None:
        self._scorer = scorer
        self._most_tokens = most_tokens
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def admit(self, timeout: float, caller: str) -> None:
        """Nobody is refused."""

    async def submit(self, request: EncodedRequest, timeout: float, caller: str) -> Scored:
        """The scores of a request, however long it takes. Raises as the scorer does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._score, request)

    def _score(self, request: EncodedRequest) -> Scored:
        return joined([self._scorer.score([piece])[0] for piece in cut(request, self._most_tokens)])


@dataclass(slots=True)
class OfflineCounts:
    """What became of the people who were asked for."""

    people: int = 0  # who have rows in the file
    rows: int = 0
    left_out: int = 0  # of whom nothing may be used, or nothing can be recommended
    dropped: int = 0  # whose rows were taken out, as something of them was forgotten or restricted meanwhile


class OfflineJob:
    """Writes the `top_k` best items of each person. `advance` is told of people who are done."""

    def __init__(
        self,
        recommender: Recommending,
        ledger: PeopleLedger,
        file: PeopleFile,
        top_k: int,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._recommender, self._ledger, self._file = recommender, ledger, file
        self._top_k, self._advance = top_k, advance
        self._counts = OfflineCounts()

    async def run(self, users: Iterable[str]) -> OfflineCounts:
        """Answer for each of them, and finish the file.

        Whoever is forgotten or restricted before it is finished is not in it; of whom single interactions were forgotten,
        what stands there was made without these. Raises as `Recommender.recommend` does; then nothing is finished.
        """
        fence, _ = self._ledger.forgotten_since(0, ())
        await self._write(users, self._advance)
        late = {""}
        while late:
            fence, late = self._forgotten_since(fence)
            if late:
                self._counts.rows -= self._file.drop("user_id", late)
                self._counts.dropped += len(late)
                self._counts.people -= len(late)
                await self._write(sorted(late), lambda _: None)
        self._file.finish()
        return self._counts

    async def _write(self, users: Iterable[str], advance: Callable[[int], None]) -> None:
        async with aclosing(self._answers(users)) as answers:
            async for user, found in answers:
                rows = [] if found is None else rows_of(user, found)
                self._file.write(rows)
                self._counts.people += bool(rows)
                self._counts.left_out += not rows
                self._counts.rows += len(rows)
                advance(1)

    async def _answers(self, users: Iterable[str]) -> AsyncGenerator[tuple[str, Recommendation | None], None]:
        """Users in their order, and their answers; None: nothing may be used of them."""
        under_way: deque[tuple[str, asyncio.Task[Recommendation | None]]] = deque()
        try:
            for user in users:
                under_way.append((user, asyncio.create_task(self._answer(user))))
                if len(under_way) == _AT_ONCE:
                    first, task = under_way.popleft()
                    yield first, await task
            while under_way:
                first, task = under_way.popleft()
                yield first, await task
        finally:
            for _, task in under_way:
                task.cancel()

    async def _answer(self, user: str) -> Recommendation | None:
        try:
            return await self._recommender.recommend(Query(user, (), None, self._top_k, strict=True))
        except UnknownUser:
            return None

    def _forgotten_since(self, fence: int) -> tuple[int, set[str]]:
        """The fence of now, and who of the file was forgotten, in whole or in part, or restricted since."""
        now, _ = self._ledger.forgotten_since(fence, ())
        late: set[str] = set()
        if now != fence:
            for rows in self._file.batches():
                late |= self._ledger.forgotten_since(fence, {row["user_id"] for row in rows})[1]
        return now, late


def rows_of(user: str, found: Recommendation) -> list[dict[str, Any]]:
    """An answer as rows of the file, best first."""
    told = {"generation": found.generation, "fence": found.fence, "degraded": found.degraded}
    return [
        {"user_id": user, "rank": item.rank, "item_id": item.item_id, "title": item.title, "score": item.score, **told}
        for item in found.items
    ]

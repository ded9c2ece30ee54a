"""What waits to be scored, and whose turn it is: callers take turns, and so do the requests of one caller."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.scoring.requests import EncodedRequest, Scored


@dataclass(eq=False, slots=True)
class Waiting:
    """One request. `pieces` are those that are not in a batch yet, `scored` the answers so far, in order."""

    caller: str
    pieces: deque[EncodedRequest]
    answer: asyncio.Future[Scored]
    scored: list[Scored] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of the pieces that wait; an empty one costs a place, too."""
        return sum(map(cost_of, self.pieces))


Piece = tuple[Waiting, EncodedRequest]


def cost_of(piece: EncodedRequest) -> int:
    """In tokens, one at least."""
    return max(1, piece.tokens)


class Company:
    """Whether more callers than one have asked lately."""

    def __init__(self, lately: float) -> None:
        """`lately` in seconds."""
        self._lately = lately
        self._newest, self._newest_at, self._other_at = "", -math.inf, -math.inf  # the last of another than the newest

    def note(self, caller: str, now: float) -> None:
        """This caller asks."""
        if caller != self._newest:
            self._newest, self._other_at = caller, self._newest_at
        self._newest_at = now

    def is_there(self, now: float) -> bool:
        """Whether another one than the newest has asked lately."""
        return now - self._other_at < self._lately


class Turns:
    """A queue for each caller. It belongs to one event loop.

    Whoever comes while a batch is scored goes before those who are in it, and behind everybody else: they wait for what is left
    of that batch, and not for another one of a caller who has many. As in self-clocked fair queueing (Golestani 1994) nobody
    waits for ever, since the next to come stands behind those who wait by then.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[Waiting]] = OrderedDict()  # whose turn it is stands first
        self._tokens_of: dict[str, int] = {}
        self._served: list[str] = []  # whose pieces are in the last batch
        self.tokens = 0

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for queue in self._queues.values() for waiting in queue)

    def add(self, waiting: Waiting) -> None:
        """To the end of its caller's queue."""
        self._queues.setdefault(waiting.caller, deque()).append(waiting)
        self._count(waiting.caller, waiting.tokens)

    def remove(self, waiting: Waiting) -> bool:
        """Take it out wherever it stands; whether it stood anywhere."""
        queue = self._queues.get(waiting.caller)
        if queue is None or waiting not in queue:
            return False
        queue.remove(waiting)
        self._count(waiting.caller, -waiting.tokens)
        if not queue:
            del self._queues[waiting.caller]
        return True

    def take(self, most_tokens: int) -> list[Piece]:
        """The next batch: of each caller a piece in turn, until the next would be too much. One piece at least."""
        for caller in self._served:
            if caller in self._queues:
                self._queues.move_to_end(caller)
        batch: list[Piece] = []
        taken = 0
        while self._queues:
            caller, queue = next(iter(self._queues.items()))
            cost = cost_of(queue[0].pieces[0])
            if batch and taken + cost > most_tokens:
                break
            waiting = queue.popleft()
            batch.append((waiting, waiting.pieces.popleft()))
            taken += cost
            self._count(caller, -cost)
            if waiting.pieces:
                queue.append(waiting)  # behind what its caller asked meanwhile
            self._queues.move_to_end(caller)
            if not queue:
                del self._queues[caller]
        self._served = [waiting.caller for waiting, _ in batch]
        return batch

    def tokens_of(self, caller: str) -> int:
        """What waits of this caller."""
        return self._tokens_of.get(caller, 0)

    def ahead(self, caller: str, turn: int) -> int:
        """Tokens that come before what this caller would add: their own, and of each other caller as many and a turn."""
        own = self.tokens_of(caller)
        others = (tokens for name, tokens in self._tokens_of.items() if name != caller)
        return own + sum(min(tokens, own + turn) for tokens in others)

    def share(self, caller: str, whole: int) -> int:
        """This caller's part of `whole`, if all who wait have equal parts."""
        return whole // len({*self._queues, caller})

    def _count(self, caller: str, tokens: int) -> None:
        self.tokens += tokens
        self._tokens_of[caller] = self._tokens_of.get(caller, 0) + tokens
        if not self._tokens_of[caller]:
            del self._tokens_of[caller]

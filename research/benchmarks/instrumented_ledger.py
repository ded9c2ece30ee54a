"""A ledger that notes how long each step of a build keeps it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any, cast

from service.ledger import Ledger, ReadTransaction
from service.records import ShardAssignment


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of time, or a difference of two: by the clock, and by this process's use of a processor, in seconds."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Moment:
        return cls(perf_counter(), process_time())

    def since(self, earlier: Moment, waited: float = 0.0) -> Moment:
        """What has passed, without `waited` seconds of sleep."""
        return Moment(self.clock - earlier.clock - waited, self.processor - earlier.processor)

    def plus(self, other: Moment) -> Moment:
        return Moment(self.clock + other.clock, self.processor + other.processor)


class WatchedReading:
    """Passes every question on, and notes how long its answer took."""

    def __init__(self, transaction: ReadTransaction, noting: Callable[[str], AbstractContextManager[None]]) -> None:
        self._transaction = transaction
        self._noting = noting

    def __getattr__(self, name: str) -> Any:
        answer = getattr(self._transaction, name)
        if not callable(answer):
            return answer

        def timed(*asked: Any) -> Any:
            with self._noting(f"read {name}"):
                return answer(*asked)

        return timed


class WatchedLedger(Ledger):
    """The real ledger, which notes how long each step of a build keeps it, and when the build's planning ends."""

    def __init__(self, url: str, secret: bytes, before_training: Callable[[Collection[str]], None]) -> None:
        """`before_training` is called with the digests of adapters of a build, before it is looked which are missing."""
        super().__init__(url, secret)
        self._before_training = before_training
        self.seconds: dict[str, float] = {}
        self.planned_at: Moment | None = None

    def begin(self) -> None:
        """Forget what was noted."""
        self.seconds, self.planned_at = {}, None

    @contextmanager
    def read_transaction(self) -> Iterator[ReadTransaction]:
        """One consistent look at the ledger, timed."""
        with super().read_transaction() as transaction:
            yield cast(ReadTransaction, WatchedReading(transaction, self._noting))

    def save_assignments(self, changed: Mapping[str, int], assignments: Sequence[ShardAssignment]) -> None:
        """Remember where units stand, timed."""
        with self._noting("save_places"):
            super().save_assignments(changed, assignments)

    def record_lineage(
        self,
        view_fence: int,
        adapters: Mapping[str, Iterable[str]],
        rows: Mapping[str, str],
        shards: Mapping[str, str] | None = None,
        memories: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Record who will have seen what, timed."""
        with self._noting("record_exposures"):
            super().record_lineage(view_fence, adapters, rows, shards, memories)
        if adapters:
            self._before_training(adapters.keys())

    def set_shards_training(self, count: int) -> None:
        """State how many shards are in training; a build calls it first when it knows what to train."""
        self.planned_at = self.planned_at or Moment.now()
        super().set_shards_training(count)

    def drop_lineage_except(
        self, adapters: Collection[str], rows: Collection[str], generation: str, memories: Collection[str] = ()
    ) -> None:
        """Drop the lineage of what is no longer there, timed."""
        with self._noting("drop_exposures_except"):
            super().drop_lineage_except(adapters, rows, generation, memories)

    def erase_traces(self) -> None:
        """Rewrite the database's file, timed."""
        with self._noting("erase_traces"):
            super().erase_traces()

    def resurrected_users(self) -> dict[str, list[str] | None]:
        """Look for users who are held although a tombstone stands, timed."""
        with self._noting("resurrected_users"):
            return super().resurrected_users()

    @contextmanager
    def _noting(self, step: str) -> Iterator[None]:
        began = perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + perf_counter() - began

"""The counts at any size: counting, summing, answering and forgetting, with people who are made up.

Everything is the product's own (`count_people`, `Store`, `Memory`, `reasons`) but the people. Each draws seven tenths of what
they do from two of a hundred kinds of items, the rest from all, by a power law within both: so some pairs are common, and most
are of one person only, as in real catalogs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from adapters_store import Store, digest_of
from research.benchmarks.report import Section
from research.benchmarks.scale import peak_gib
from service.building.progress import Progress
from service.memory.artifact import load_memory, memory_files
from service.memory.content import Content
from service.memory.counting import count_people
from service.memory.live import LiveCounts, Memory, Source
from service.memory.retrieval import READ, Taste
from service.records import Interaction
from service.scoring.ranking import reasons

_KINDS = 100
_OWN_SHARE = 0.7
_POWER = 0.8
_LIKED = 0.7
_DELETIONS = 5
_WIDTH = 128  # of an embedding
_GIB = 2**30

T = TypeVar("T")
Row = dict[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Crowd:
    """How large. Shards hold about `shard` interactions."""

    people: int
    interactions: int  # of each
    items: int
    shard: int
    least_people: int
    requests: int = 200
    seed: int = 0

    @property
    def item_ids(self) -> tuple[str, ...]:
        """In order."""
        return tuple(f"item-{number:07}" for number in range(self.items))

    def histories(self) -> Iterator[list[Interaction]]:
        """The histories of one person after the other, equal every time."""
        ids, rng = self.item_ids, np.random.default_rng(self.seed)
        every, own = _cumulated(self.items), _cumulated(-(-self.items // _KINDS))
        for person in range(self.people):
            kinds = rng.integers(0, _KINDS, 2)
            drawn = np.searchsorted(every, rng.random(self.interactions))
            within = np.searchsorted(own, rng.random(self.interactions)) * _KINDS + rng.choice(kinds, self.interactions)
            chosen = np.where(rng.random(self.interactions) < _OWN_SHARE, within % self.items, drawn)
            liked = rng.random(self.interactions) < _LIKED
            _, first = np.unique(chosen, return_index=True)
            yield [
                Interaction(f"person-{person}", ids[chosen[n]], bool(liked[n]), int(n)) for n in np.sort(first).tolist()
            ]


Histories = Sequence[Sequence[Interaction]]
Sums = dict[str, dict[str, str]]  # of each memory, by its digest: what its files are to hold


class MemoryBench:
    """Counts a crowd into a store, and then does what a server does."""

    def __init__(self, folder: Path, crowd: Crowd, progress: Progress) -> None:
        self._store, self._crowd, self._progress = Store(folder), crowd, progress
        stands = np.random.default_rng(crowd.seed).normal(size=(crowd.items, _WIDTH)).astype(np.float32)
        self._content = Content(np.zeros((crowd.items, 0), np.float32), stands)

    def run(self) -> list[Section]:
        """One table of steps, one of milliseconds."""
        sums, counting, first = self._count()
        counted_by = peak_gib()
        memory, summing = _timed(lambda: Memory.of(self._source(sums), self._crowd.item_ids))
        live = memory.without()
        rows = self._crowd.people * self._crowd.interactions
        steps = (
            _step("counting and storing", counting, rows, counted_by),
            _step("adding up", summing, rows, peak_gib()),
        )
        stored = sum(file.stat().st_size for file in self._store.root.rglob("*") if file.is_file())
        notes = (
            f"{rows:,} interactions in {len(sums):,} shards; {stored / _GIB:.3g} GiB on disk",
            f"{live.pairs:,} pairs of at least {self._crowd.least_people} people are kept",
            "one process on one core; peak GiB: the most that it had held by then",
        )
        return [Section("counts", steps, notes), Section("a server", tuple(self._answers(memory, live, sums, first)))]

    def _answers(self, memory: Memory, live: LiveCounts, sums: Sums, first: Mapping[str, Histories]) -> Iterator[Row]:
        tastes = list(self._tastes())
        yield _times(f"all items ordered for a history of {READ}", [self._ask(live, taste) for taste in tastes])
        masked, renewed = [], []
        for (digest, people), taste in zip(first.items(), tastes, strict=False):
            masked.append(self._ask_without(memory, digest, taste))
            put, own = self._put(people[1:])
            after = self._source({other: stated for other, stated in sums.items() if other != digest} | {put: own})
            renewed.append(_timed(partial(memory.renewed, after, self._crowd.item_ids))[1])
        yield _times("from a mask to an answer: the shard is read and subtracted", masked)
        yield _times("the sum after a deletion, from the one before", renewed)

    def _count(self) -> tuple[Sums, float, dict[str, Histories]]:
        """What is stored, the seconds that took, and who is in the first few shards."""
        self._progress.phase("counting people", self._crowd.people)
        sums: Sums = {}
        first: dict[str, Histories] = {}
        seconds, histories = 0.0, self._crowd.histories()
        while people := list(islice(histories, max(1, self._crowd.shard // self._crowd.interactions))):
            (digest, sums[digest]), taken = _timed(partial(self._put, people))
            seconds += taken
            if len(first) < _DELETIONS:
                first[digest] = people
            self._progress.advance(len(people))
        return sums, seconds, first

    def _put(self, people: Histories) -> tuple[str, dict[str, str]]:
        digest = digest_of([rows[0].user_id for rows in people])
        return digest, self._store.memories.add(digest, memory_files(count_people(people)))

    def _source(self, sums: Sums) -> Source:
        stated = self._store.memories.stated
        return Source(tuple(sums), lambda d: load_memory(stated(d, sums[d]).read()), self._crowd.least_people)

    def _ask(self, live: LiveCounts, taste: Taste) -> float:
        return _timed(lambda: reasons(live, taste, None, self._content))[1]

    def _ask_without(self, memory: Memory, digest: str, taste: Taste) -> float:
        live, taken = _timed(lambda: memory.without({digest}))
        return taken + self._ask(live, taste)

    def _tastes(self) -> Iterator[Taste]:
        number = {item_id: n for n, item_id in enumerate(self._crowd.item_ids)}
        for rows in islice(self._crowd.histories(), self._crowd.requests):
            newest = rows[-READ:]
            yield Taste(tuple(number[row.item_id] for row in newest), tuple(row.liked for row in newest))


def _cumulated(items: int) -> Floats:
    chances = np.arange(1, items + 1, dtype=np.float64) ** -_POWER
    return np.asarray(np.cumsum(chances) / chances.sum(), np.float64)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    done = work()
    return done, time.perf_counter() - began


def _step(name: str, seconds: float, rows: int, peak: float) -> Row:
    return {"step": name, "seconds": seconds, "interactions/s": rows / seconds, "peak GiB": peak}


def _times(what: str, seconds: Sequence[float]) -> Row:
    p50, p99 = np.percentile(seconds, (50, 99)) * 1_000
    return {"milliseconds": what, "p50": float(p50), "p99": float(p99), "times": len(seconds)}

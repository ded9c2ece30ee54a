"""Lethe as it is served, in a folder that is thrown away: a ledger, a build, a recommender that is asked.

This is the only file of a ranking that knows the service. A query goes the way that it goes behind HTTP: history and candidates
from the ledger, scores of the language model, the order of an answer.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from adapters_store import Store
from research.evaluation.ranking.metrics import LENGTH
from research.evaluation.ranking.protocols import HeldOut
from research.evaluation.ranking.results import ADAPTERS, MEMORIES, STORED_BYTES
from service.building.builder import Builder, Built
from service.building.progress import Progress
from service.building.workers.process_pool import TaskRunner
from service.ledger import Ledger
from service.llm.frozen import FrozenModel
from service.records import BuildConfig
from service.scoring.recommender import Prepared, Recommender, answer
from service.scoring.requests import EncodedRequest, Query, RankBy, Recommendation, Scored
from service.scoring.scorer import Scorer, Untimed
from service.scoring.snapshot import Snapshots

BOTH, MEMORY, LANGUAGE = "lethe", "lethe memory alone", "lethe language model alone"
ROWS = (BOTH, MEMORY, LANGUAGE)

SECRET = b"of a ranking, where nobody is hidden"
_TIMEOUT = 600.0  # seconds; nobody waits here
_INDIFFERENT = 0.5
_NO_RECEIPT = "{}"

Names = tuple[str, ...]  # of items, best first


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every installation of a ranking is made with."""

    frozen: FrozenModel
    process_pool: TaskRunner
    config: BuildConfig
    environment: Mapping[str, str]


class Installation:
    """A published generation of a split's training rows, and all that answers queries with it."""

    def __init__(self, folder: Path, workshop: Workshop, split: HeldOut, progress: Progress) -> None:
        self._workshop, self._split = workshop, split
        self._ledger = Ledger(f"sqlite:///{folder.absolute()}/ledger.sqlite", SECRET)
        store, frozen = Store(folder / "store"), workshop.frozen
        self._builder = Builder(
            self._ledger, store, frozen.spec, workshop.process_pool, SECRET, workshop.environment, progress
        )
        self._store, self._snapshots = store, Snapshots(store, frozen)
        self._scorer = Scorer(self._ledger, self._snapshots, frozen, Untimed())
        self._recommender = Recommender(self._ledger, self._snapshots, frozen, _NoQueue(), _TIMEOUT)
        self._ledger.import_data(split.items, split.train, split.item_type)
        self._known = {row.user_id for row in split.train}
        self.build_seconds, built = _timed(self._build)
        self.holds = _holding(built, store)

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def top(self, user: str) -> dict[str, Names]:
        """Row -> what it recommends to a person of the ledger. Whoever has no row there is asked for without a history."""
        query = Query(user if user in self._known else None, (), None, LENGTH)
        prepared, scored = self._scored(query)
        return {
            BOTH: _names(answer(query, prepared, scored)),
            # With one score for all, the language model has no say in the order.
            MEMORY: _names(answer(query, prepared, _undecided(scored))),
            LANGUAGE: _names(answer(replace(query, rank_by=RankBy.SCORE), prepared, scored)),
        }

    def top_of_stranger(self, history: Sequence[tuple[str, bool]]) -> Names:
        """What is recommended for a history of item ids and likes, oldest first, of somebody whom the ledger does not know."""
        query = Query(None, tuple(history), None, LENGTH)
        return _names(answer(query, *self._scored(query)))

    def ranked(self, user: str, candidates: Sequence[str]) -> dict[str, Names]:
        """Row -> its order of items of one's own choice, all of them."""
        query = Query(user, (), tuple(candidates), len(candidates), RankBy.MODEL)
        prepared, scored = self._scored(query)
        by_score = replace(query, rank_by=RankBy.SCORE)
        return {
            BOTH: _names(answer(query, prepared, scored)),
            MEMORY: _names(answer(query, prepared, _undecided(scored))),
            LANGUAGE: _names(answer(by_score, prepared, scored)),
        }

    def owe(self, user: str) -> None:
        """Forget somebody as far as an answer to `POST /forget` does: masked, and nothing built again."""
        self._ledger.forget(user, None, None)

    def forget(self, user: str) -> float:
        """Seconds until the served generation is one that never saw this person: masked, built again, published, masks lifted.

        Erasing and searching the files for remains is not in it.
        """
        began = time.perf_counter()
        request = self._ledger.forget(user, None, None).request
        self._build()
        self._ledger.complete(request.request_id, _NO_RECEIPT, time.time())  # lifts the masks
        return time.perf_counter() - began

    def _build(self) -> Built:
        built = self._builder.build(self._workshop.config)
        self._store.publish(built.generation)
        self._ledger.publish(built.published, list(built.shards), list(built.rows), list(built.memories))
        self._snapshots.of(built.generation)  # a server has it in memory before it is asked
        return built

    def _scored(self, query: Query) -> tuple[Prepared, Scored]:
        prepared = self._recommender.prepare(query)
        [scored] = self._scorer.score([prepared.encoded])
        return prepared, scored


@contextmanager
def installed(workshop: Workshop, split: HeldOut, progress: Progress) -> Iterator[Installation]:
    """An installation that is gone afterwards, with all that it knew of anybody."""
    with tempfile.TemporaryDirectory() as folder:
        installation = Installation(Path(folder), workshop, split, progress)
        try:
            yield installation
        finally:
            installation.close()


class _NoQueue:
    """In the place of the batcher: queries are scored one by one, as a server does that has one at a time."""

    def admit(self, timeout: float, caller: str) -> None: ...

    async def submit(self, request: EncodedRequest, timeout: float, caller: str) -> Scored:
        raise NotImplementedError("a ranking scores in its own thread")


def _timed(build: Callable[[], Built]) -> tuple[float, Built]:
    began = time.perf_counter()
    built = build()
    return time.perf_counter() - began, built


def _holding(built: Built, store: Store) -> dict[str, int]:
    stored = sum(file.stat().st_size for file in store.root.rglob("*") if file.is_file())
    return {ADAPTERS: len(built.shards), MEMORIES: len(built.memories), STORED_BYTES: stored}


def _undecided(scored: Scored) -> Scored:
    return replace(scored, scores=(_INDIFFERENT,) * len(scored.scores))


def _names(recommendation: Recommendation) -> Names:
    return tuple(item.item_id for item in recommendation.items if item.item_id is not None)

"""The control plane alone, at any size: ledger, partition, digests, masks, store, receipts. No model computes anything.

Everything is the product's own (`Ledger`, `Builder`, `Intake`, `Reconciler`, `Store`) but the processes that would run the
model: what they would compute is made up at once (`StandIn`), and training takes the time that one says it takes. The adapters
of the first build are put into the store as soon as they are planned, so that they need not be "trained" one by one.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from adapters_store import Store
from research.benchmarks.fakes import (
    Plan,
    StandIn,
    check_size,
    interactions_of,
    items,
    user_id,
)
from research.benchmarks.instrumented_ledger import Moment, WatchedLedger
from research.benchmarks.report import Section
from service.building.builder import Builder
from service.building.progress import Progress, Silent
from service.data.samples import is_validation_user
from service.errors import LetheError
from service.forgetting.bell import open_bell
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.reconcile import Reconciler
from service.forgetting.tombstones import TombstoneFile
from service.ledger import KeyedHashes
from service.llm.spec import ModelSpec
from service.records import BuildConfig

_IMPORTED_AT_ONCE = 10_000  # people
_SECRET = b"the secret of a simulation"
_ENVIRONMENT = {"computed": "nothing"}  # what is made up depends on no library
_GIB = 2**30
_PLANNING = ("save_places", "record_exposures")


@dataclass(frozen=True, slots=True)
class Deletion:
    """What one person's deletion took; what is said of training is left out of `completed`."""

    masked: Moment  # request to answer
    planned: Moment  # from the worker's first look until it knows what to train
    completed: Moment  # until the receipt is signed
    shards: int
    steps: Mapping[str, float]  # of the ledger, in `completed`
    peak: float  # GiB that the process had held by its end


class DatabaseInUse(LetheError):
    """A database that holds something: the simulation would forget people in it."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where everything of a simulation lies: a folder; the ledger in it too, unless a database is given."""

    folder: Path
    database_url: str | None = None

    @property
    def ledger_url(self) -> str:
        return self.database_url or f"sqlite:///{self.folder / 'ledger.sqlite'}"


class Installation:
    """Somewhere, with a model that is made up."""

    def __init__(self, site: Site, model: ModelSpec, config: BuildConfig, plan: Plan, progress: Progress) -> None:
        """`model` gives the tokenizer."""
        folder = site.folder
        self._plan, self._progress, self._config = plan, progress, config
        self._process_pool = StandIn(plan)
        self._store = Store(folder / "store")
        self.ledger = WatchedLedger(site.ledger_url, _SECRET, self._put_adapters)
        self._putting = Moment(0.0, 0.0)
        self._first = False
        signer = ReceiptSigner.open(folder / "receipts.pem")
        self._intake = Intake(self.ledger, signer, TombstoneFile(folder / "tombstones.jsonl", KeyedHashes(_SECRET)))
        builder = Builder(self.ledger, self._store, model, self._process_pool, _SECRET, _ENVIRONMENT, progress)
        bell = open_bell(None, folder / "worker.lock")
        self._reconciler = Reconciler(self.ledger, self._store, builder, bell, signer, config)

    def build(self) -> tuple[Moment, Moment, int]:
        """The first generation: what its planning took, and the rest; how many shards it has."""
        self.ledger.begin()
        self._first, began = True, Moment.now()
        built = self._reconciler.rebuild(self._config)
        ended, self._first = Moment.now(), False
        planned_at = self.ledger.planned_at or ended
        return planned_at.since(began).since(self._putting), ended.since(planned_at), len(built.shards)

    def delete(self, person: str) -> Deletion:
        """From the request to the receipt."""
        began = Moment.now()
        request = self._intake.forget(person, None, None)
        masked = Moment.now().since(began)
        self.ledger.begin()
        trained, began = self._process_pool.trained, Moment.now()
        self._reconciler.reconcile_once()
        ended = Moment.now()
        if self.ledger.request(request.request_id).state != "completed":
            raise LetheError("a deletion of the simulation was not completed by one pass of the worker")
        return Deletion(
            masked=masked,
            planned=(self.ledger.planned_at or ended).since(began),
            completed=ended.since(began, self._process_pool.trained - trained),
            shards=len(request.affected_shards),
            steps=dict(self.ledger.seconds),
            peak=peak_gib(),
        )

    def _put_adapters(self, digests: Collection[str]) -> None:
        if not self._first:
            return
        began = Moment.now()
        self._progress.phase("making up adapters", len(digests))
        for digest in digests:
            self._store.adapters.add(digest, self._process_pool.adapter(digest))
            self._progress.advance(1)
        self._putting = self._putting.plus(Moment.now().since(began))


def delete_anew(site: Site, model: ModelSpec, config: BuildConfig, plan: Plan, person: str) -> Deletion:
    """A deletion in an installation that this process has just opened, as a worker does that starts."""
    installation = Installation(site, model, config, plan, Silent())
    deletion = installation.delete(person)
    installation.ledger.close()
    return deletion


class Simulation:
    """Import, a first build, deletions."""

    def __init__(self, site: Site, model: ModelSpec, stated: BuildConfig, plan: Plan, progress: Progress) -> None:
        """Raises TooLarge, DatabaseInUse."""
        self._site, self._model, self._plan, self._progress = site, model, plan, progress
        self.config = plan.config(stated)
        check_size(self.config, plan)
        self._installation = Installation(site, model, self.config, plan, progress)
        if self._installation.ledger.counts().interactions:
            self._installation.ledger.close()
            raise DatabaseInUse("the database holds interactions; give an empty one: this simulation deletes people")

    def run(self) -> list[Section]:
        """Import, build, and delete some people one after another, the last one in a process of its own; the tables."""
        before, imported = peak_gib(), self._import()
        rows = self._plan.users * self._plan.interactions
        steps = [_step("libraries, before anything", [], None, before), _step("import", [imported], rows, peak_gib())]
        planned, completed, shards = self._installation.build()
        steps += [_step("first build, planned", [planned], rows)]
        steps += [_step("first build, the rest", [completed], rows, peak_gib())]
        *people, last = self._people()
        deletions = [self._installation.delete(person) for person in people]
        self._installation.ledger.close()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
            anew = apart.submit(delete_anew, self._site, self._model, self.config, self._plan, last).result()
        steps += _deletion_steps("a deletion", deletions, self._plan.interactions, rows / shards)
        steps += _deletion_steps("in a new process", [anew], self._plan.interactions, rows / shards)
        title = f"control plane: {self._plan.users:,} people, {shards:,} shards, cap {self.config.max_shard_size}"
        return [
            Section(title, tuple(steps), _STEP_NOTES),
            Section("where a deletion's time goes, of the worker", tuple(_shares(deletions))),
        ]

    def _import(self) -> Moment:
        draw, taken = random.Random(self._plan.seed), Moment(0.0, 0.0)
        catalog = items()
        self._progress.phase("importing", self._plan.users)
        for first in range(0, self._plan.users, _IMPORTED_AT_ONCE):
            numbers = range(first, min(first + _IMPORTED_AT_ONCE, self._plan.users))
            rows = [row for number in numbers for row in interactions_of(number, self._plan.interactions, draw)]
            began = Moment.now()
            self._installation.ledger.import_data(catalog if first == 0 else [], rows, "movie")
            taken = taken.plus(Moment.now().since(began))
            self._progress.advance(len(numbers))
        return taken

    def _people(self) -> list[str]:
        """Some of those whom adapters have seen, and one more."""
        percent, seed = self.config.validation_percent, self.config.seed
        numbers = random.Random(self._plan.seed + 1).sample(range(self._plan.users), self._plan.users)
        seen = (user_id(n) for n in numbers if not is_validation_user(user_id(n), percent, seed))
        return list(islice(seen, self._plan.deletions + 1))


def peak_gib() -> float:
    """The most memory that this process has held so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / _GIB if sys.platform == "darwin" else most * 1024 / _GIB


def _step(name: str, taken: Sequence[Moment], rows: float | None = None, peak: float | None = None) -> dict[str, Any]:
    return {
        "step": name,
        "seconds": median(each.clock for each in taken) if taken else None,
        "slowest": max(each.clock for each in taken) if taken else None,
        "of a processor": median(each.processor for each in taken) if taken else None,
        "floor rows": rows,
        "peak GiB": peak,
    }


def _deletion_steps(name: str, deletions: Sequence[Deletion], own: int, of_a_shard: float) -> list[dict[str, Any]]:
    retrained = of_a_shard * median(deletion.shards for deletion in deletions)
    return [
        _step(f"{name}, masked", [deletion.masked for deletion in deletions], own),
        _step(f"{name}, planned", [deletion.planned for deletion in deletions], retrained),
        _step(
            f"{name}, completed",
            [deletion.completed for deletion in deletions],
            retrained,
            max(deletion.peak for deletion in deletions),
        ),
    ]


_STEP_NOTES = (
    "of a processor: seconds of this process on one, which does not grow when others keep the machine busy",
    "of a deletion: the median, and the slowest; planned and completed count from the worker's first look, without training",
    "peak GiB: the most that the process had held by the end of that step; the first build's adapters are made up, not trained",
    "in a new process: one that opened ledger and store for it, so that it reads all adapters to see that they are sound",
    "floor rows: interactions that the step cannot do without; of a deletion, the person's own, and those of whom it retrains",
)


def _shares(deletions: Sequence[Deletion]) -> Iterator[dict[str, Any]]:
    completed = median(deletion.completed.clock for deletion in deletions)
    steps = sorted({step for deletion in deletions for step in deletion.steps})
    taken = {step: median(deletion.steps.get(step, 0.0) for deletion in deletions) for step in steps}
    planned = median(deletion.planned.clock for deletion in deletions)
    in_planning = sum(seconds for step, seconds in taken.items() if step in _PLANNING or step.startswith("read "))
    rest = {
        "planning beside the ledger: nodes, digests, a look at every adapter": planned - in_planning,
        "the rest: rows, manifest, store, search for remains": completed - planned - sum(taken.values()) + in_planning,
    }
    for step, seconds in {**{f"ledger: {step}": seconds for step, seconds in taken.items()}, **rest}.items():
        yield {"step": step, "seconds": seconds, "share": seconds / completed}

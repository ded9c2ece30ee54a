"""Deletions that come one person at a time: approximate methods go on from what they made before, so their errors add up.

After each deletion the answers to the test samples are measured; at some of them also how far the answers to everyone forgotten
so far are from those of a model retrained without them. The exact row builds again, and is compared with a clean build there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from adapters_store import digest_of
from research.evaluation.comparison.laboratory import Laboratory
from research.evaluation.comparison.results import plain
from research.evaluation.unlearning.exact import Installation, forget_exactly, installed
from research.evaluation.unlearning.examiner import Examiner
from research.evaluation.unlearning.learner import State
from research.evaluation.unlearning.measures import Doubles, distributions, euclidean, jensen_shannon
from research.evaluation.unlearning.methods import LETHE, RETRAIN, Approximate
from research.evaluation.unlearning.results import Drift, drift_of
from research.evaluation.unlearning.splits import Lessons
from research.evaluation.unlearning.training import Setting, likely, read_answers
from research.evaluation.unlearning.trial import Trial, Workbench
from service.building.progress import Progress
from service.errors import InvalidSetting
from service.records import Sample


@dataclass(frozen=True, slots=True)
class Queue:
    """Who is forgotten, in order, and after which of the deletions (numbered from 1) distances are measured."""

    people: tuple[str, ...]
    checked: frozenset[int]

    def gone(self, deletions: int) -> frozenset[str]:
        """Everybody forgotten by then."""
        return frozenset(self.people[:deletions])


def queue(lessons: Lessons, deletions: int, checks: int, seed: int) -> Queue:
    """`deletions` people, drawn by `seed`; the last deletion is checked, and others evenly spaced before it.

    Raises InvalidSetting where nobody would be left.
    """
    users = sorted({sample.user_id for sample in lessons.train})
    if deletions >= len(users):
        raise InvalidSetting(f"a stream of {deletions} deletions leaves nobody: {len(users)} people are trained on")
    people = tuple(random.Random(f"stream {seed}").sample(users, deletions))
    return Queue(
        people, frozenset(-(-n * deletions // checks) for n in range(1, checks + 1)) if people else frozenset()
    )


@dataclass(frozen=True, slots=True)
class Stream:
    """What every row of a stream needs."""

    bench: Workbench
    examiner: Examiner
    test_digest: str
    seed: int
    recipe: Setting
    queue: Queue
    progress: Progress

    def approximate(self, name: str, method: Approximate, setting: Setting) -> Iterator[Drift]:
        """One deletion after another, each from the model that the one before left. The last model alone stays on disk."""
        chain = _Chain(self, name, method, setting)
        for deletions in range(1, len(self.queue.people) + 1):
            measure = partial(self._approximate_drift, chain, deletions)
            yield drift_of(self._recall("drift", chain.inputs(deletions), measure))
            chain.drop(deletions - 1)
            self.progress.advance(1)

    def retrained(self) -> Iterator[Drift]:
        """A model trained again without everybody forgotten so far, where distances are measured."""
        for deletions in sorted(self.queue.checked):
            trial = self.trial(deletions)
            made = trial.retrained()
            measure = partial(self._drift, RETRAIN, deletions, made.value, (made.seconds, made.seconds))
            yield drift_of(self._recall("drift", {**trial.identity, "method": RETRAIN}, measure))
            self.progress.advance(1)

    def exact(self, laboratory: Laboratory, test: Sequence[Sample]) -> list[Drift]:
        """Lethe, one deletion after another. Found again as a whole: its installation is not kept."""
        inputs = {**self.bench.identity, "seed": self.seed, "people": len(self.queue.people)}
        inputs |= {"checked": sorted(self.queue.checked)}
        found = self._recall("exact stream", inputs, lambda: self._forgets_exactly(laboratory, test))
        return [drift_of(stated) for stated in found]

    def _forgets_exactly(self, laboratory: Laboratory, test: Sequence[Sample]) -> list[Any]:
        config, lessons = self.bench.config, self.bench.lessons
        found = []
        with installed(laboratory, config, lessons) as home:
            home.build(frozenset())
            for deletions in range(1, len(self.queue.people) + 1):
                found.append(self._exact_drift(home, laboratory, test, deletions))
                self.progress.advance(1)
        return found

    def _exact_drift(
        self, home: Installation, laboratory: Laboratory, test: Sequence[Sample], deletions: int
    ) -> dict[str, Any]:
        gone, compares = self.queue.gone(deletions), deletions in self.queue.checked
        done = forget_exactly(home, laboratory, self.bench.config, self.bench.lessons, gone, test, compares)
        quality = self.examiner.quality(self.trial(deletions), done.scores)
        clean = done.clean
        return _json(
            Drift(
                LETHE,
                deletions,
                quality.auc,
                quality.log_loss,
                clean.jsd if clean else None,
                clean.l2 if clean else None,
                done.seconds,
                done.seconds,
                clean.identical if clean else None,
            )
        )

    def _approximate_drift(self, chain: _Chain, deletions: int) -> dict[str, Any]:
        return self._drift(chain.name, deletions, chain.state(deletions), chain.seconds(deletions))

    def _drift(self, name: str, deletions: int, state: State, seconds: tuple[float, float]) -> dict[str, Any]:
        trial = self.trial(deletions)
        quality = self.examiner.quality(trial, self._answers(state, self.examiner.test(trial).prompts))
        jsd = l2 = None
        if deletions in self.queue.checked:
            gone = trial.forgotten.prompts
            two = [distributions(self._answers(one, gone)) for one in (state, trial.retrained().value)]
            jsd, l2 = jensen_shannon(*two), euclidean(*two)
        return _json(Drift(name, deletions, quality.auc, quality.log_loss, jsd, l2, *seconds, None))

    def _answers(self, state: State, prompts: Sequence[list[int]]) -> Doubles:
        self.bench.learner.restore(state)
        return likely(read_answers(self.bench.learner, prompts))

    def trial(self, deletions: int, alone: bool = False) -> Trial:
        """Everybody forgotten so far as D_f; or the newest one alone, with the others out of D_r all the same."""
        gone = self.queue.gone(deletions)
        forgetting = self.bench.lessons.without(gone)
        if alone:
            newest = self.bench.lessons.without(frozenset(self.queue.people[deletions - 1 : deletions]))
            forgetting = type(forgetting)(newest.users, newest.forgotten, forgetting.retained)
        return Trial(self.bench, self.seed, self.recipe, forgetting)

    def _recall(self, kind: str, inputs: dict[str, Any], make: Any) -> Any:
        stated = {**self.bench.identity, **inputs, "test": self.test_digest, "checked": sorted(self.queue.checked)}
        return self.bench.notebook.recall(kind, stated, make)


@dataclass(frozen=True, slots=True)
class _Chain:
    """The models that one approximate method leaves, deletion after deletion."""

    stream: Stream
    name: str
    method: Approximate
    setting: Setting

    def inputs(self, deletions: int) -> dict[str, Any]:
        """What the model after so many deletions depends on, beside the bench."""
        trial = self.stream.trial(deletions, alone=True)
        people = digest_of(list(self.stream.queue.people[:deletions]))
        return {**trial.identity, "method": self.name, "setting": asdict(self.setting), "people": people}

    def state(self, deletions: int) -> State:
        """Read from disk, or made from the one before."""
        if not deletions:
            return self.stream.trial(1).original().value
        return self.stream.bench.model("stream", self.inputs(deletions), partial(self._make, deletions)).value

    def seconds(self, deletions: int) -> tuple[float, float]:
        """Seconds by the paper's count, and all in; noted before the model is."""
        paper, all_in = self.stream.bench.notebook.recall("stream seconds", self.inputs(deletions), lambda: None)
        return paper, all_in

    def drop(self, deletions: int) -> None:
        """Remove the model after so many deletions, and what the next one was made with."""
        if deletions:
            self.stream.bench.drop_model("stream", self.inputs(deletions))
        self.stream.trial(deletions + 1, alone=True).drop_augmented(self._called(deletions))

    def _make(self, deletions: int) -> None:
        before, trial = self.state(deletions - 1), self.stream.trial(deletions, alone=True)
        done = self.method.run_from(trial, before, self._called(deletions - 1), self.setting)
        seconds = [done.paper_seconds, done.all_in_seconds]
        trial.bench.notebook.recall("stream seconds", self.inputs(deletions), lambda: seconds)

    def _called(self, deletions: int) -> str:
        return f"{self.name}, {asdict(self.setting)}, {deletions} deletions"


def _json(drift: Drift) -> dict[str, Any]:
    stated: dict[str, Any] = plain(asdict(drift))
    return stated

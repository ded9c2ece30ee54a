"""The whole comparison: settings on validation samples, then every row under every seed, then the stream of small deletions.

It computes only what its folder lacks.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from research.evaluation.comparison.examiner import Floats
from research.evaluation.comparison.laboratory import Laboratory
from research.evaluation.comparison.results import plain
from research.evaluation.unlearning.choosing import choose, choose_recipe
from research.evaluation.unlearning.exact import forget_exactly, installed
from research.evaluation.unlearning.examiner import Exam, Examiner, Read
from research.evaluation.unlearning.learner import Learner, Part
from research.evaluation.unlearning.methods import LETHE, METHODS, NAMES, Approximate
from research.evaluation.unlearning.results import Drift, MeasuredMethod, UnlearningComparison, measured_of
from research.evaluation.unlearning.splits import Cut, samples_digest
from research.evaluation.unlearning.stream import Stream, queue
from research.evaluation.unlearning.training import Setting
from research.evaluation.unlearning.trial import Trial, Workbench
from service.building.progress import Progress
from service.errors import InvalidSetting
from service.records import Sample

STREAMED = ("e2urec", "neggrad")  # the approximate rows of a stream

_READ_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run is to measure."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    relearning_limit: int  # steps; 0: relearning is not measured
    stream: int  # deletions; 0: none
    checks: int  # deletions of the stream after which distances are measured

    def check(self) -> None:
        """Raises InvalidSetting for a row that there is not."""
        unknown = [name for name in self.methods if name not in NAMES]
        if unknown:
            raise InvalidSetting(f"no method is named {', '.join(map(repr, unknown))}; there are {', '.join(NAMES)}")


class Run:
    """One data set, one laboratory, one folder."""

    def __init__(
        self, cut: Cut, laboratory: Laboratory, learner: Learner, wanted: Wanted, out: Path, progress: Progress
    ) -> None:
        """Raises InvalidSetting for rows that there are not, and for too few people."""
        wanted.check()
        self.cut, self.laboratory, self.wanted, self.progress = cut, laboratory, wanted, progress
        embed = partial(embedded, laboratory, cut.lessons.item_type)
        self.bench = Workbench(learner, embed, cut.lessons, laboratory.config, out, laboratory.identity)
        self.chooser = Chooser(self.bench, wanted.seeds[0])
        self._queue = queue(cut.lessons, wanted.stream, wanted.checks, wanted.seeds[0])

    def settings(self, name: str) -> Setting | None:
        """What was chosen for a row; None for Lethe, which is built as the configuration says."""
        return None if name == LETHE else self.chooser.setting(name)

    def measured(self) -> Iterator[MeasuredMethod]:
        """Every row under every seed."""
        for seed in self.wanted.seeds:
            self.progress.phase(f"methods, seed {seed}", len(self.wanted.methods))
            row = Row(self, Trial(self.bench, seed, self.chooser.recipe))
            for name in self.wanted.methods:
                yield row.measured(name)
                self.progress.advance(1)

    def drifts(self) -> Iterator[Drift]:
        """The stream, row by row; the retrained models first, to which the others are held."""
        if not self.wanted.stream:
            return
        named = [name for name in STREAMED if name in self.wanted.methods]
        steps = len(self._queue.checked) + (len(named) + 1) * self.wanted.stream
        self.progress.phase("stream of deletions", steps)
        seed, recipe = self.wanted.seeds[0], self.chooser.recipe
        parts = (self.bench, self.examiner, self.test_digest, seed, recipe, self._queue, self.progress)
        stream = Stream(*parts)
        yield from stream.retrained()
        for name in named:
            method = METHODS[name]
            if isinstance(method, Approximate):
                yield from stream.approximate(name, method, self.chooser.setting(name))
        if LETHE in self.wanted.methods:
            yield from stream.exact(self.laboratory, self.cut.test)

    @cached_property
    def examiner(self) -> Examiner:
        return Examiner(self.cut.test)

    @cached_property
    def test_digest(self) -> str:
        return samples_digest(self.cut.test, self.cut.lessons.item_type)


class Chooser:
    """Settings of every row, chosen under the first seed for all. It is given a bench, which holds no test sample."""

    def __init__(self, bench: Workbench, seed: int) -> None:
        self._bench, self._seed = bench, seed

    @cached_property
    def recipe(self) -> Setting:
        """How the base is trained; the configuration's epochs are the most that are tried."""
        return choose_recipe(self._bench, self._seed, self._bench.config.epochs)

    def setting(self, name: str) -> Setting:
        """The settings that one row was chosen with."""
        trial = Trial(self._bench, self._seed, self.recipe)
        return choose(trial, name, METHODS[name], self._bench.config.epochs)


class Row:
    """One seed: how a row of it is measured."""

    def __init__(self, run: Run, trial: Trial) -> None:
        self._run, self._trial = run, trial
        self._first = trial.seed == run.wanted.seeds[0]

    def measured(self, name: str) -> MeasuredMethod:
        """One cell of the notebook."""
        setting = self._run.settings(name)
        inputs = {
            **self._run.bench.identity,
            **self._trial.identity,
            "method": name,
            "setting": None if setting is None else asdict(setting),
            "test": self._run.test_digest,
            "relearning": self._run.wanted.relearning_limit if self._first else 0,
            "int8": self._first,
        }
        measure = self._exact if setting is None else partial(self._measure, name, setting)
        found = self._run.bench.notebook.recall("unlearned", inputs, lambda: plain(asdict(measure())))
        return measured_of(found)

    def _measure(self, name: str, setting: Setting) -> MeasuredMethod:
        method, trial, examiner = METHODS[name], self._trial, self._run.examiner
        done = method.run(trial, setting)
        exam = examiner.exam(trial, examiner.read(trial, done.states), self._retrained)
        rounded = self._rounded(done.states) if self._first else None
        steps, rounded_steps = self._relearning(done.states)
        return MeasuredMethod(
            method=name,
            seed=trial.seed,
            part=str(method.part),
            setting=asdict(setting),
            **asdict(exam.quality),
            **asdict(exam.distance),
            paper_seconds=done.paper_seconds,
            all_in_seconds=done.all_in_seconds,
            parameters=done.parameters,
            membership_auc=exam.membership_auc,
            relearning_steps=steps,
            int8_auc=rounded.quality.auc if rounded else None,
            int8_jsd=rounded.distance.jsd if rounded else None,
            int8_membership_auc=rounded.membership_auc if rounded else None,
            int8_relearning_steps=rounded_steps,
            identical_to_clean_build=None,
        )

    def _rounded(self, states: Sequence[Mapping[str, Any]]) -> Exam:
        learner, examiner = self._run.bench.learner, self._run.examiner
        read = examiner.read(self._trial, [learner.rounded(state) for state in states])
        return examiner.exam(self._trial, read, self._rounded_retrained)

    def _relearning(self, states: Sequence[Mapping[str, Any]]) -> tuple[int | None, int | None]:
        """How soon one model, as it is and rounded; several that answer together do not learn as one."""
        most = self._run.wanted.relearning_limit
        if not self._first or not most or len(states) > 1:
            return None, None
        original, learner = self._trial.original().value, self._run.bench.learner
        ask = partial(self._run.examiner.relearning_steps, self._trial)
        return ask(states[0], original, most), ask(learner.rounded(states[0]), original, most)

    @cached_property
    def _retrained(self) -> Read:
        return self._run.examiner.read(self._trial, [self._trial.retrained().value])

    @cached_property
    def _rounded_retrained(self) -> Read:
        rounded = self._run.bench.learner.rounded(self._trial.retrained().value)
        return self._run.examiner.read(self._trial, [rounded])

    def _exact(self) -> MeasuredMethod:
        run, trial = self._run, self._trial
        with installed(run.laboratory, run.laboratory.config, run.cut.lessons) as home:
            home.build(frozenset())
            gone = trial.forgetting.users
            done = forget_exactly(home, run.laboratory, run.laboratory.config, run.cut.lessons, gone, run.cut.test)
        quality = run.examiner.quality(trial, done.scores)
        clean = done.clean
        return MeasuredMethod(
            method=LETHE,
            seed=trial.seed,
            part=str(Part.LORA),
            setting=None,
            **asdict(quality),
            jsd=clean.jsd if clean else np.nan,
            symmetric=None,
            l2=clean.l2 if clean else np.nan,
            paper_seconds=done.seconds,
            all_in_seconds=done.seconds,
            parameters=done.parameters,
            membership_auc=run.examiner.membership(trial, done.forgotten, done.scores),
            relearning_steps=None,
            int8_auc=None,
            int8_jsd=None,
            int8_membership_auc=None,
            int8_relearning_steps=None,
            identical_to_clean_build=clean.identical if clean else None,
        )


def compare_unlearning(run: Run, machine: Mapping[str, str]) -> UnlearningComparison:
    """Everything that a run wants. `machine`: what figures depend on beside the environment, in words.

    Raises:
        LetheError, StoreFailure: what is finished by then is kept.
    """
    choose_all(run)
    forgetting = run.cut.lessons.forgetting(run.wanted.seeds[0])
    return UnlearningComparison(
        dataset=run.cut.lessons.dataset,
        order=run.cut.order,
        split=run.cut.counts,
        forgotten={"people": len(forgetting.users), "samples": len(forgetting.forgotten)},
        model=run.laboratory.frozen.tokenizer.digest,
        settings=plain(asdict(run.laboratory.config)),
        environment=dict(run.laboratory.environment),
        machine=dict(machine),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        seeds=run.wanted.seeds,
        relearning_limit=run.wanted.relearning_limit,
        recipe=asdict(run.chooser.recipe),
        measured=tuple(run.measured()),
        stream=tuple(run.drifts()),
    )


def choose_all(run: Run) -> None:
    """Settings of every row, before anything is measured."""
    run.progress.phase("settings", len(run.wanted.methods))
    for name in run.wanted.methods:
        run.settings(name)
        run.progress.advance(1)


def embedded(laboratory: Laboratory, item_type: str, samples: Sequence[Sample]) -> Floats:
    """Where the frozen model puts the samples' contexts, (S, H)."""
    frozen = laboratory.frozen
    contexts = frozen.tokenizer.contexts([sample.history for sample in samples], item_type)
    batches = (contexts[n : n + _READ_AT_ONCE] for n in range(0, len(contexts), _READ_AT_ONCE))
    return np.concatenate([frozen.embed(batch).cpu().numpy() for batch in batches])

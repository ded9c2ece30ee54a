"""The whole comparison: methods × seeds, and the paper's studies. It computes only what its folder lacks."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from research.evaluation.comparison.examiner import Examiner
from research.evaluation.comparison.laboratory import Finding, Laboratory, Trial
from research.evaluation.comparison.methods import METHODS
from research.evaluation.comparison.results import (
    Comparison,
    Measured,
    StudyPoint,
    measured_of,
    plain,
)
from research.evaluation.comparison.splits import Split
from research.evaluation.comparison.studies import studies_of
from service.building.progress import Progress
from service.building.workers.process_pool import Report
from service.errors import InvalidSetting

Value = TypeVar("Value")


def compare(
    split: Split,
    laboratory: Laboratory,
    methods: Sequence[str],
    seeds: Sequence[int],
    training_samples: int,
    out: Path,
    progress: Progress,
    studies: bool,
) -> Comparison:
    """Measure every method under every seed, on `training_samples` drawn by it; with `studies` also those of the APA paper.

    Everything found is kept in `out` under the digest of its inputs (`cells`, `store`, `catalog`), so that a run that was
    killed goes on where it stopped. Forgetting is timed under the first seed only: under every seed it would cost
    more than all the rest.

    Raises:
        InvalidSetting: an unknown method, or more training samples than there are.
        LetheError, StoreFailure: what is finished by then is kept.
    """
    _check(methods)
    # The first task waits until the libraries are loaded, which is no method's fault.
    list(laboratory.process_pool.run(warm_up, [None]))
    examiner, digest = Examiner(split, laboratory.frozen, laboratory.config.lora_targets), split.digest
    measured: list[Measured] = []
    points: list[StudyPoint] = []
    for seed in seeds:
        trial = Trial(laboratory, split, digest, training_samples, seed, out, examiner)
        measured += _each(f"methods, seed {seed}", [_cell(trial, name, seed == seeds[0]) for name in methods], progress)
        points += _each(f"studies, seed {seed}", studies_of(trial) if studies else [], progress)
    return Comparison(
        dataset=split.dataset,
        split=split.counts(training_samples),
        model=laboratory.frozen.tokenizer.digest,
        settings=json.loads(json.dumps(asdict(laboratory.config))),
        environment=dict(laboratory.environment),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        seeds=tuple(seeds),
        measured=tuple(measured),
        studies=tuple(points),
    )


def warm_up(_task: None, _report: Report) -> None:
    """A task of which nothing remains but processes that start quickly."""


def _check(methods: Sequence[str]) -> None:
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise InvalidSetting(f"no method is named {', '.join(map(repr, unknown))}; there are {', '.join(METHODS)}")


def _each(phase: str, cells: Sequence[Callable[[], Value]], progress: Progress) -> Iterator[Value]:
    progress.phase(phase, len(cells))
    for cell in cells:
        yield cell()
        progress.advance(1)


def _cell(trial: Trial, method: str, forgets: bool) -> Callable[[], Measured]:
    def measure() -> dict[str, Any]:
        finding = METHODS[method].measure(trial, trial.removals() if forgets else ())
        stated: dict[str, Any] = plain(asdict(_measured(trial, method, finding)))
        return stated

    inputs = {**trial.identity, "method": method, "forgets": forgets}
    return lambda: measured_of(trial.notebook.recall("measured", inputs, measure))


def _measured(trial: Trial, method: str, finding: Finding) -> Measured:
    single = [trial.examiner.quality(scores).auc for scores in finding.single_scores]
    user, sample = finding.forgotten or (None, None)
    return Measured(
        method=method,
        seed=trial.seed,
        **asdict(trial.examiner.quality(finding.scores)),
        single_auc=statistics.fmean(single) if single else None,
        shards=finding.shards,
        build_seconds=finding.build_seconds,
        forget_user_seconds=user.seconds if user else None,
        forget_user_shards=user.shards if user else None,
        forget_sample_seconds=sample.seconds if sample else None,
        forget_sample_shards=sample.shards if sample else None,
        scoring_seconds_per_500=trial.per_500(finding.scoring_seconds),
        trainable_parameters=finding.trainable_parameters,
    )

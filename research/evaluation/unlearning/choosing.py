"""Settings, chosen on validation samples and D_f alone. What is chosen from never holds a test sample.

The recipe of the original has the highest validation AUC. An approximate method has the smallest sum of its validation log loss
and of how far its log loss on D_f is from that: what is forgotten should be answered like what was never seen. The retrained
model, which nobody who wants to save retraining has, decides nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from research.evaluation.metrics import auc, log_loss
from research.evaluation.unlearning.learner import Part
from research.evaluation.unlearning.methods import RECIPE_RATES, Method
from research.evaluation.unlearning.training import Labeled, Setting, fit, likely, read_answers
from research.evaluation.unlearning.trial import Trial, Workbench

_MOST_ROWS = 256  # of each kind that one look reads

Judge = Callable[[], float]
"""How good the learner is as it stands; more is better."""


def choose_recipe(bench: Workbench, seed: int, epochs: int) -> Setting:
    """Rate and epochs (1 to `epochs`) of training from the base on all training samples."""
    return _chosen(bench, "recipe", {"seed": seed, "epochs": epochs}, lambda: _best_recipe(bench, seed, epochs))


def choose(trial: Trial, name: str, method: Method, epochs: int) -> Setting:
    """Rate, weight and epochs (1 to `epochs`) of one method; of a method without a choice of its own the recipe."""
    candidates = method.candidates(epochs)
    if not candidates:
        return trial.recipe
    inputs = {**trial.identity, "method": name, "candidates": [asdict(one) for one in candidates]}
    return _chosen(trial.bench, "choice", inputs, lambda: _best(trial, method, candidates))


def _chosen(bench: Workbench, kind: str, inputs: dict[str, Any], find: Callable[[], Setting]) -> Setting:
    stated = bench.notebook.recall(kind, {**bench.identity, **inputs}, lambda: asdict(find()))
    return Setting(**stated)


def _best_recipe(bench: Workbench, seed: int, epochs: int) -> Setting:
    found: list[tuple[float, Setting]] = []
    for rate in RECIPE_RATES:
        setting = Setting(rate, epochs)
        note = _noting(found, setting, lambda: _validation_auc(bench))
        bench.learner.restore(bench.base)
        fit(bench.learner, Part.FULL, bench.train, setting, bench.config.batch_size, seed, note)
    return _first_best(found)


def _best(trial: Trial, method: Method, candidates: list[Setting]) -> Setting:
    found: list[tuple[float, Setting]] = []
    for setting in candidates:
        method.run(trial, setting, _noting(found, setting, lambda: _like_unseen(trial)))
    return _first_best(found)


def _noting(found: list[tuple[float, Setting]], setting: Setting, judge: Judge) -> Callable[[int], None]:
    return lambda epochs: found.append((judge(), replace(setting, epochs=epochs)))


def _first_best(found: list[tuple[float, Setting]]) -> Setting:
    defined = [(-math.inf if math.isnan(value) else value, setting) for value, setting in found]
    return max(defined, key=lambda one: one[0])[1]


def _validation_auc(bench: Workbench) -> float:
    rows = _some(bench.valid)
    return auc(_likely(bench, rows), rows.liked.tolist())


def _like_unseen(trial: Trial) -> float:
    unseen, forgotten = (_loss(trial.bench, _some(rows)) for rows in (trial.bench.valid, trial.forgotten))
    return -(unseen + abs(forgotten - unseen))


def _loss(bench: Workbench, rows: Labeled) -> float:
    return log_loss(_likely(bench, rows), rows.liked.tolist())


def _likely(bench: Workbench, rows: Labeled) -> list[float]:
    found: list[float] = likely(read_answers(bench.learner, rows.prompts)).tolist()
    return found


def _some(rows: Labeled) -> Labeled:
    return rows.rows(sorted(random.Random(0).sample(range(len(rows)), min(_MOST_ROWS, len(rows)))))

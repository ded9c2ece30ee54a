"""The rows of the table: how each comes to a model that is to have forgotten D_f, and what that takes.

Original, Retrain, SISA and RecEraser train from the base by one recipe. The approximate ones go on from the original.
Parameters are all of the model's (`full`), or the adapters' alone (`lora`), which then stand on the original's own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Protocol

import numpy as np

from research.evaluation.comparison.examiner import Timed, timed
from research.evaluation.comparison.partitions import RANDOM, USER_BASED, Partitioning, Pool
from research.evaluation.unlearning.learner import Part, State
from research.evaluation.unlearning.objectives import (
    BadTeacher,
    E2URec,
    NegativeDivergence,
    NegativeGradient,
    Objective,
)
from research.evaluation.unlearning.training import AfterEpoch, Setting, unlearn
from research.evaluation.unlearning.trial import Trial

SHARDS = 4  # of SISA and RecEraser, as in the papers

RATES: Mapping[Part, tuple[float, ...]] = {Part.FULL: (3e-5, 1e-4), Part.LORA: (1e-3, 3e-3)}
WEIGHTS = (0.1, 0.5)  # of the subtracted terms
RECIPE_RATES = (1e-4, 3e-4)  # of training from the base


@dataclass(frozen=True, slots=True)
class Unlearned:
    """What a method came to. Several states answer with the mean of their distributions."""

    states: tuple[State, ...]
    paper_seconds: float  # without what the paper does not count: the making of teachers
    all_in_seconds: float
    parameters: int  # trained ones, of all states together


class Method(Protocol):
    """One row."""

    @property
    def part(self) -> Part: ...

    def candidates(self, epochs: int) -> list[Setting]:
        """What is to be chosen from on validation samples, each with `epochs` epochs or fewer; nothing, if by the recipe."""
        ...

    def run(self, trial: Trial, setting: Setting, after_epoch: AfterEpoch = lambda _: None) -> Unlearned:
        """Forget D_f."""
        ...


@dataclass(frozen=True, slots=True)
class ByRecipe:
    """One model, trained from the base with D_f (Original) or without it (Retrain)."""

    model: Callable[[Trial], Timed[State]]
    part: Part = Part.FULL

    def candidates(self, epochs: int) -> list[Setting]:
        """None: the recipe was chosen for all."""
        del epochs
        return []

    def run(self, trial: Trial, setting: Setting, after_epoch: AfterEpoch = lambda _: None) -> Unlearned:
        """Found again, where another row has trained it."""
        del setting, after_epoch
        made = self.model(trial)
        return Unlearned((made.value,), made.seconds, made.seconds, trained_parameters(trial, self.part))


@dataclass(frozen=True, slots=True)
class Sharded:
    """SISA and RecEraser: K models on K shards; those whose shard held a forgotten sample are trained again without it.

    With a fifth of the people forgotten that is every one. RecEraser is its user-based balanced partition (UBP) here, over the
    places where the frozen model puts people's prompts, and the mean of the answers in the place of learned attention.
    """

    partitioning: Partitioning
    part: Part = Part.FULL

    def candidates(self, epochs: int) -> list[Setting]:
        """None: the recipe was chosen for all."""
        del epochs
        return []

    def run(self, trial: Trial, setting: Setting, after_epoch: AfterEpoch = lambda _: None) -> Unlearned:
        """Only the state after forgetting is made."""
        del setting, after_epoch
        gone = set(trial.forgetting.forgotten)
        shards = self.partitioning.shards(self._pool(trial), SHARDS, trial.seed)
        states, seconds = [], 0.0
        for shard in shards:
            rows = [row for row in shard if row not in gone]
            if not rows:
                continue
            made = timed(partial(trial.train_from_base, trial.bench.train.rows(rows), self.part))
            # A shard that nobody left would have stayed as it was.
            seconds += made.seconds if len(rows) < len(shard) else 0.0
            states.append(trial.bench.learner.state())
        return Unlearned(tuple(states), seconds, seconds, len(states) * trained_parameters(trial, self.part))

    def _pool(self, trial: Trial) -> Pool:
        users = tuple(sample.user_id for sample in trial.bench.lessons.train)
        if not self.partitioning.reads_prompts:
            return Pool(users, np.zeros((0, 0), np.float32))
        return Pool(users, trial.bench.embeddings)


@dataclass(frozen=True, slots=True)
class Approximate:
    """Some steps from the original, under an objective that may have a weight."""

    objective: Callable[[float], Objective]
    part: Part
    weights: tuple[float, ...] = (1.0,)

    def candidates(self, epochs: int) -> list[Setting]:
        """Every rate of the part with every weight."""
        return [Setting(rate, epochs, weight) for rate, weight in product(RATES[self.part], self.weights)]

    def run(self, trial: Trial, setting: Setting, after_epoch: AfterEpoch = lambda _: None) -> Unlearned:
        """The original and the augmented model are found again, where another row has made them."""
        return self.run_from(trial, trial.original().value, "original", setting, after_epoch)

    def run_from(
        self, trial: Trial, before: State, name: str, setting: Setting, after_epoch: AfterEpoch = lambda _: None
    ) -> Unlearned:
        """From any model that has seen D_f, called `name`."""
        objective, bench = self.objective(setting.weight), trial.bench
        augmented = trial.augmented(before, name) if objective.needs_augmented else None

        def forget() -> None:
            taught = trial.taught(objective, before, augmented.value if augmented else None, setting.epochs)
            size = bench.config.batch_size
            unlearn(bench.learner, self.part, objective, *taught, setting, size, trial.seed, after_epoch)

        seconds = timed(forget).seconds
        all_in = seconds + (augmented.seconds if augmented else 0.0)
        return Unlearned((bench.learner.state(),), seconds, all_in, trained_parameters(trial, self.part))


def trained_parameters(trial: Trial, part: Part) -> int:
    """How many numbers one model trains."""
    return sum(parameter.numel() for parameter in trial.bench.learner.parameters(part))


def _e2urec(forgets: bool = True, remembers: bool = True) -> Callable[[float], Objective]:
    return lambda _: E2URec(forgets=forgets, remembers=remembers)


ORIGINAL, RETRAIN = "original", "retrain"

METHODS: Mapping[str, Method] = {
    ORIGINAL: ByRecipe(Trial.original),
    RETRAIN: ByRecipe(Trial.retrained),
    "sisa": Sharded(RANDOM),
    "receraser": Sharded(USER_BASED),
    "negkl": Approximate(NegativeDivergence, Part.FULL, WEIGHTS),
    "neggrad": Approximate(NegativeGradient, Part.FULL, WEIGHTS),
    "bad-t": Approximate(lambda _: BadTeacher(), Part.FULL),
    "e2urec": Approximate(_e2urec(), Part.LORA),
    "e2urec-without-fgt": Approximate(_e2urec(forgets=False), Part.LORA),
    "e2urec-without-rem": Approximate(_e2urec(remembers=False), Part.LORA),
    "sisa-lora": Sharded(RANDOM, Part.LORA),
    "receraser-lora": Sharded(USER_BASED, Part.LORA),
    "negkl-lora": Approximate(NegativeDivergence, Part.LORA, WEIGHTS),
    "neggrad-lora": Approximate(NegativeGradient, Part.LORA, WEIGHTS),
    "bad-t-lora": Approximate(lambda _: BadTeacher(), Part.LORA),
    "bad-t-flipped": Approximate(lambda _: BadTeacher(flips=True), Part.FULL),
    "e2urec-full": Approximate(_e2urec(), Part.FULL),
}
LETHE = "lethe"  # the exact row, which is measured by itself
NAMES = (*METHODS, LETHE)

# The paper's tables, its ablation, the exact row, and each baseline by its adapters alone.
DEFAULT_ROWS = tuple(name for name in NAMES if name not in ("bad-t-flipped", "e2urec-full"))

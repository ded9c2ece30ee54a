"""One seed: what is forgotten, and the models that several methods start from, kept on disk. It holds no test sample."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from adapters_store import digest_of
from research.evaluation.comparison.examiner import Floats, Timed, timed
from research.evaluation.comparison.notebook import Notebook
from research.evaluation.unlearning.learner import Learner, Part, State
from research.evaluation.unlearning.objectives import Objective
from research.evaluation.unlearning.splits import Forgetting, Lessons
from research.evaluation.unlearning.training import (
    Labeled,
    Setting,
    Taught,
    fit,
    labels_at_random,
    read_answers,
)
from service.records import BuildConfig, Sample


class Workbench:
    """One learner, one set of lessons and one folder, for all seeds."""

    def __init__(
        self,
        learner: Learner,
        embed: Callable[[Sequence[Sample]], Floats],
        lessons: Lessons,
        config: BuildConfig,
        folder: Path,
        identity: Mapping[str, Any],
    ) -> None:
        """`embed` places samples' contexts, for partitions; `identity` is what figures depend on beside lessons and config."""
        self.learner = learner
        self._embed = embed
        self.lessons = lessons
        self.config = config
        self.folder = folder
        self.notebook = Notebook(folder / "cells")
        self.identity = {**identity, "lessons": lessons.digest, "config": asdict(config)}
        self.base = learner.state()
        self._models = folder / "models"
        self._models.mkdir(exist_ok=True)

    @cached_property
    def train(self) -> Labeled:
        """All training samples, D_f and D_r."""
        return labeled(self.learner, self.lessons.train, self.lessons.item_type)

    @cached_property
    def valid(self) -> Labeled:
        """The validation samples."""
        return labeled(self.learner, self.lessons.valid, self.lessons.item_type)

    @cached_property
    def embeddings(self) -> Floats:
        """Where the frozen model puts the training samples' contexts: (S, H), rows of unit length."""
        return self._embed(self.lessons.train)

    def model(self, kind: str, inputs: Mapping[str, Any], make: Callable[[], None]) -> Timed[State]:
        """The state in which `make` leaves the learner, and the seconds of its making, however often it is found again."""
        stated = {**self.identity, "kind": kind, **inputs}
        path = self._models / f"{digest_of(stated)}.safetensors"
        seconds: float = self.notebook.recall("model", stated, lambda: self._make(make, path))
        if not path.exists():
            self._make(make, path)
        return Timed(load_file(path), seconds)

    def drop_model(self, kind: str, inputs: Mapping[str, Any]) -> None:
        """Remove what `model` has kept; its seconds stay."""
        (self._models / f"{digest_of({**self.identity, 'kind': kind, **inputs})}.safetensors").unlink(missing_ok=True)

    def _make(self, make: Callable[[], None], path: Path) -> float:
        seconds = timed(make).seconds
        unfinished = path.with_suffix(f".{os.getpid()}")
        save_file(dict(self.learner.state()), unfinished)
        os.replace(unfinished, path)
        return seconds


class Trial:
    """One seed, with the recipe of the models that are trained from the base."""

    def __init__(self, bench: Workbench, seed: int, recipe: Setting, forgetting: Forgetting | None = None) -> None:
        """`forgetting` is drawn by the seed, unless it is given."""
        self.bench = bench
        self.seed = seed
        self.recipe = recipe
        self.forgetting = forgetting or bench.lessons.forgetting(seed)
        self.identity = {
            "seed": seed,
            "recipe": asdict(recipe),
            "retained": digest_of(list(self.forgetting.retained)),
        }

    @property
    def forgotten(self) -> Labeled:
        """D_f."""
        return self.bench.train.rows(self.forgetting.forgotten)

    @property
    def retained(self) -> Labeled:
        """D_r."""
        return self.bench.train.rows(self.forgetting.retained)

    def original(self) -> Timed[State]:
        """Every parameter trained on D_f and D_r; the same for every D_f of a seed."""
        inputs = {"seed": self.seed, "recipe": asdict(self.recipe)}
        return self.bench.model("original", inputs, lambda: self.train_from_base(self.bench.train))

    def retrained(self) -> Timed[State]:
        """Every parameter trained on D_r alone: what forgetting should lead to."""
        return self.bench.model("retrained", self.identity, lambda: self.train_from_base(self.retained))

    def augmented(self, before: State, name: str) -> Timed[State]:
        """The model `before` (called `name`) taught D_f once more, with the recipe of the original."""

        def make() -> None:
            self.bench.learner.restore(before)
            fit(self.bench.learner, Part.FULL, self.forgotten, self.recipe, self.bench.config.batch_size, self.seed)

        return self.bench.model("augmented", {**self.identity, "before": name}, make)

    def drop_augmented(self, name: str) -> None:
        """Remove from disk what `augmented` has kept."""
        self.bench.drop_model("augmented", {**self.identity, "before": name})

    def train_from_base(self, rows: Labeled, part: Part = Part.FULL) -> None:
        """Leaves the learner trained on these rows by the recipe."""
        self.bench.learner.restore(self.bench.base)
        fit(self.bench.learner, part, rows, self.recipe, self.bench.config.batch_size, self.seed)

    def taught(
        self, objective: Objective, before: State, augmented: State | None, epochs: int
    ) -> tuple[Taught, Taught]:
        """D_f and as much of D_r as so many epochs read, with the teachers' logits that the objective needs.

        Leaves the learner in the state `before`.
        """
        learner, gone = self.bench.learner, self.forgotten
        kept = self.bench.train.rows(self._read_of_retained(len(gone) * epochs))
        of_augmented = None
        if augmented is not None and objective.needs_augmented:
            learner.restore(augmented)
            of_augmented = read_answers(learner, gone.prompts)
        learner.restore(before)
        of_gone, of_kept = (
            read_answers(learner, r.prompts) if objective.needs_original else None for r in (gone, kept)
        )
        forgotten = Taught(gone, of_gone, of_augmented, self._drawn(len(gone)))
        return forgotten, Taught(kept, of_kept, None, self._drawn(len(kept)))

    def _read_of_retained(self, count: int) -> list[int]:
        rows = self.forgetting.retained
        # Shuffled whole, so that what fewer epochs read is where more epochs begin.
        return random.Random(f"retained {self.seed}").sample(rows, len(rows))[:count]

    def _drawn(self, count: int) -> torch.Tensor:
        return labels_at_random(count, self.seed)


def labeled(learner: Learner, samples: Sequence[Sample], item_type: str) -> Labeled:
    """Samples as a learner reads them."""
    prompts = learner.encode(samples, item_type)
    return Labeled(tuple(prompts), torch.tensor([sample.liked for sample in samples], dtype=torch.bool))

"""What every compared method gets: one frozen model, one set of settings, the same samples, and where results are kept."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adapters_store import Store, digest_of
from research.evaluation.comparison.examiner import (
    Examiner,
    Floats,
    Timed,
    timed,
)
from research.evaluation.comparison.facts import PublicItemFacts
from research.evaluation.comparison.notebook import Notebook
from research.evaluation.comparison.splits import Split
from service.building.known import KnownArtifacts
from service.building.planning.embedding import EmbeddingTask, embed_groups
from service.building.progress import Silent
from service.building.training.adapters import AdapterMaker
from service.building.workers.process_pool import TaskRunner
from service.data import prompts
from service.llm.frozen import FrozenModel
from service.records import BuildConfig

_SAMPLES_A_TASK = 128
_NO_SECRET = b"what is found again here is nobody's"


@dataclass(frozen=True, slots=True)
class Laboratory:
    """One frozen model and one way to compute, for all methods and seeds.

    `config` is what `lethe` is built with; the other methods take its adapter settings, neighbors and tau. Its seed is
    replaced by each of the comparison's seeds. `environment` decides digests, as in a build. `facts` are for `logistic`.
    """

    frozen: FrozenModel
    process_pool: TaskRunner
    config: BuildConfig
    environment: Mapping[str, str]
    facts: PublicItemFacts

    @property
    def identity(self) -> dict[str, Any]:
        """What a figure depends on beside the split, the seed and the settings."""
        tokenizer = self.frozen.tokenizer
        frozen = {"digest": tokenizer.digest, "dtype": self.frozen.spec.dtype}
        computed = {"environment": dict(self.environment), "template": prompts.TEMPLATE_VERSION}
        return {"frozen": frozen, "pooling": tokenizer.pooling, **computed}


@dataclass(frozen=True, slots=True)
class Removal:
    """What is forgotten: some training samples, by number, and with a whole `user` their validation samples too."""

    user: str | None
    samples: frozenset[int]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What one removal took: wall seconds, and the shards whose adapters could not stay (None where there are none)."""

    seconds: float
    shards: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one method showed under one seed. Seconds are wall time."""

    scores: list[float]  # (N,) P(Yes) of each test sample
    scoring_seconds: float  # for all N
    single_scores: list[list[float]]  # (K, N) of each adapter alone; empty where there are no adapters
    shards: int | None
    build_seconds: float
    trainable_parameters: int
    forgotten: tuple[Forgotten, ...]  # one for each removal that was asked for


class Trial:
    """One seed: the training samples that it draws, the settings under it, and what the methods share."""

    def __init__(
        self,
        laboratory: Laboratory,
        split: Split,
        split_digest: str,
        training_samples: int,
        seed: int,
        folder: Path,
        examiner: Examiner,
    ) -> None:
        """`folder` keeps what can be found again: `cells`, `store` and `catalog`."""
        self.laboratory = laboratory
        self.split = split
        self.seed = seed
        self.folder = folder
        self.examiner = examiner
        self.notebook = Notebook(folder / "cells")
        self.store = Store(folder / "store")
        # In order of users, as a build lists them: where k-means begins depends on it.
        self.training = tuple(sorted(split.drawn(training_samples, seed), key=lambda sample: sample.user_id))
        self.config = replace(laboratory.config, seed=seed)
        self.papers_config = replace(self.config, activation="prompt")  # adapters on all tokens, as in the papers
        self.samples_identity = {"split": split_digest, "training_samples": training_samples, "seed": seed}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that a method's figures depend on, as JSON values."""
        facts = {item_id: asdict(opinion) for item_id, opinion in sorted(self.laboratory.facts.items())}
        stated = {**self.samples_identity, **self.laboratory.identity}
        return {**stated, "config": asdict(self.config), "facts": digest_of(facts)}

    @cached_property
    def embeddings(self) -> Timed[Floats]:
        """Where the training samples' contexts stand: (S, H), rows of unit length, each read by itself as in a build."""
        return timed(self._embed)

    def adapters(self, store: Store) -> AdapterMaker:
        """What trains into a store."""
        laboratory = self.laboratory
        frozen = laboratory.frozen
        return AdapterMaker(
            KnownArtifacts(store.adapters, _NO_SECRET),
            frozen.tokenizer,
            frozen.spec,
            laboratory.process_pool,
            Silent(),
            laboratory.environment,
        )

    def removals(self) -> tuple[Removal, Removal]:
        """One random user with all their samples, and one random sample: the same for every method."""
        chance = random.Random(f"forget {self.seed}")
        user = chance.choice(sorted({sample.user_id for sample in self.training}))
        own = frozenset(number for number, sample in enumerate(self.training) if sample.user_id == user)
        return Removal(user, own), Removal(None, frozenset([chance.randrange(len(self.training))]))

    def per_500(self, seconds: float) -> float:
        """Seconds for 500 samples, of the seconds for all test samples."""
        return seconds * 500 / len(self.split.test)

    def _embed(self) -> Floats:
        tokenizer, item_type = self.laboratory.frozen.tokenizer, self.split.item_type
        groups = tuple((tokenizer.context(sample.history, item_type),) for sample in self.training)
        tasks = [
            EmbeddingTask(self.laboratory.frozen.spec, groups[i : i + _SAMPLES_A_TASK])
            for i in range(0, len(groups), _SAMPLES_A_TASK)
        ]
        parts = dict(self.laboratory.process_pool.run(embed_groups, tasks))
        return np.concatenate([parts[number] for number in range(len(tasks))])


class Method(Protocol):
    """One row of the table."""

    def measure(self, trial: Trial, removals: Sequence[Removal]) -> Finding:
        """Build it, score the test samples, and carry out each removal from the state before, whatever it costs."""
        ...

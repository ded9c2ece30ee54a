"""Simulated people with times, a tiny model, and a run whose training is counted and can be made to die."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from research.evaluation.comparison.laboratory import Laboratory
from research.evaluation.unlearning.compare import Run, Wanted
from research.evaluation.unlearning.learner import CausalLearner, Prompt
from research.evaluation.unlearning.splits import BY_TIME, Cut, Lessons
from service.building.progress import Silent
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.records import BuildConfig, Item, RatedItem, Sample
from tests.exactness.homes import SMALLEST_MODEL, InThisProcess

ITEMS = tuple(Item(f"i{n:02}", f"Film {n} ({1950 + n})", 1950 + n, ("Drama",)) for n in range(16))
CONFIG = BuildConfig(
    max_shard_size=64, tree_depth=1, history_length=3, lora_rank=2, lora_alpha=4, epochs=2, batch_size=8, top_n=5
)
WANTED = Wanted(("original", "retrain", "neggrad", "e2urec"), (0,), 4, 0, 1)


class MortalLearner(CausalLearner):
    """Counts batches that are read with a way back, and can be made to die before one."""

    steps = 0
    dies_at: int | None = None

    def answers(self, prompts: Sequence[Prompt]) -> Tensor:
        found = super().answers(prompts)
        if found.requires_grad:
            if self.steps == self.dies_at:
                raise KeyboardInterrupt
            self.steps += 1
        return found


def people(part: str, count: int, each: int) -> tuple[Sample, ...]:
    """Windows of people, half of whom like most of what they see."""
    chance = random.Random(part)
    found = []
    for user in range(count):
        items = chance.sample(ITEMS, each + 2)
        opinions = [RatedItem(item, chance.random() < 0.2 + 0.6 * (user % 2)) for item in items]
        found += [
            Sample(f"person-{user:02}", tuple(opinions[n - 2 : n]), opinions[n].item, opinions[n].liked)
            for n in range(2, each + 2)
        ]
    return tuple(found)


@pytest.fixture(scope="session")
def cut() -> Cut:
    """Ten people of four training samples, of whom two are forgotten."""
    lessons = Lessons("tiny", "movie", ITEMS, people("train", 10, 4), people("valid", 6, 2))
    return Cut(lessons, people("test", 8, 2), BY_TIME, 0)


@pytest.fixture(scope="session")
def tiny_spec(tiny_models: Callable[..., Path]) -> ModelSpec:
    return ModelSpec(str(tiny_models("llama", **SMALLEST_MODEL)))


NewRun = Callable[..., Run]


@pytest.fixture
def new_run(tiny_spec: ModelSpec, cut: Cut, tmp_path: Path) -> NewRun:
    """A function: what is wanted, and what differs from the fixtures -> a run in the test's folder, by a learner of its own."""

    def made(
        wanted: Wanted = WANTED, cut: Cut = cut, learner: MortalLearner | None = None, out: Path = tmp_path
    ) -> Run:
        out.mkdir(exist_ok=True)
        pool: Any = InThisProcess()
        laboratory = Laboratory(FrozenModel.load(tiny_spec), pool, CONFIG, {"machine": "of a test"}, {})
        return Run(cut, laboratory, learner or MortalLearner(tiny_spec, CONFIG), wanted, out, Silent())

    return made


@pytest.fixture
def learner(tiny_spec: ModelSpec) -> MortalLearner:
    return MortalLearner(tiny_spec, CONFIG)

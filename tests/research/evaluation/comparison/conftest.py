"""A tiny split, a tiny model, and a laboratory whose tasks run in this process and are written down."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from research.evaluation.comparison.compare import warm_up
from research.evaluation.comparison.facts import PublicOpinion
from research.evaluation.comparison.laboratory import Laboratory
from research.evaluation.comparison.splits import Split
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.records import BuildConfig, Item, RatedItem, Sample
from tests.exactness.homes import SMALLEST_MODEL, InThisProcess

ITEMS = tuple(Item(f"i{n:02}", f"Film {n} ({1950 + n})", 1950 + n, ("Drama", "War")[: 1 + n % 2]) for n in range(20))
CONFIG = BuildConfig(
    max_shard_size=12,
    tree_depth=1,
    history_length=3,
    lora_rank=2,
    lora_alpha=4,
    epochs=1,
    learning_rate=0.05,
    batch_size=8,
    top_n=5,
    tau=20.0,
)
TRAINING_SAMPLES = 32


class Observed(InThisProcess):
    """Writes down what it ran, and can be made to die before a task."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, Any]] = []
        self.warmed_up_after: list[int] = []  # for each time: how much it had run before
        self.dies_at: int | None = None

    def run(
        self,
        function: Callable[[Any, Any], Any],
        tasks: Sequence[Any],
        on_steps: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, Any]]:
        for number, task in enumerate(tasks):
            if function is warm_up:
                self.warmed_up_after.append(len(self.ran))
                continue
            if len(self.ran) == self.dies_at:
                raise KeyboardInterrupt
            self.ran.append((function.__name__, task))
            yield number, function(task, on_steps)

    def names(self) -> list[str]:
        return [name for name, _ in self.ran]

    def trained(self) -> list[Any]:
        return [task for name, task in self.ran if name == "train_adapter"]


def _samples(part: str, users: int, each: int) -> tuple[Sample, ...]:
    chance = random.Random(part)
    found = []
    for user in range(users):
        items = chance.sample(ITEMS, each + 3)
        opinions = [RatedItem(item, chance.random() < 0.2 + 0.6 * (user % 2)) for item in items]
        found += [
            Sample(f"{part}-{user:02}", tuple(opinions[n - 3 : n]), opinions[n].item, opinions[n].liked)
            for n in range(3, each + 3)
        ]
    return tuple(found)


@pytest.fixture(scope="session")
def split() -> Split:
    return Split(
        "tiny", "movie", ITEMS, _samples("trains", 10, 5), _samples("validates", 4, 3), _samples("is tested", 6, 4)
    )


@pytest.fixture(scope="session")
def frozen(tiny_models: Callable[..., Path]) -> FrozenModel:
    return FrozenModel.load(ModelSpec(str(tiny_models("llama", **SMALLEST_MODEL))))


@pytest.fixture
def process_pool() -> Observed:
    return Observed()


@pytest.fixture
def laboratory(frozen: FrozenModel, process_pool: Observed) -> Laboratory:
    return laboratory_with(frozen, process_pool)


def laboratory_with(frozen: FrozenModel, process_pool: Observed, config: BuildConfig = CONFIG) -> Laboratory:
    """Public votes are known of one film."""
    return Laboratory(frozen, process_pool, config, {"machine": "of a test"}, {"i00": PublicOpinion(7.0, 100.0)})

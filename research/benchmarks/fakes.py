"""What a simulation of the control plane makes up: people, their items, and what a model would compute of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from service.building.item_model import ItemModelTask, solve_item_model
from service.building.planning.embedding import EmbeddingTask, PublicTextsTask
from service.building.training.training import Trained, TrainingTask
from service.building.training.validation import UserValidation, Validated, ValidationTask
from service.building.workers.process_pool import (
    ProcessPool,
    Report,
    Result,
    Task,
)
from service.errors import InvalidSetting
from service.records import BuildConfig, Interaction, Item

_WIDTH = 32  # of made-up embeddings
_ITEMS = 2_000
_START = 1_700_000_000  # seconds since the epoch
_GIB = 2**30
_MOST_GIB = 4.0
_BYTES_AN_ERROR = 24  # float32: of the generation before, of the new one, chosen columns on the way, and its file twice

Floats = NDArray[np.float32]


class TooLarge(InvalidSetting):
    """The simulation would need more memory than one wants to give it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How large. Every person has `interactions`, of which all but the first are targets."""

    users: int
    shards: int
    interactions: int = 5
    deletions: int = 3
    training_seconds: float = 0.0  # that one shard's training is said to take
    adapter_bytes: int = 1_024  # how large an adapter is made
    seed: int = 0

    def config(self, stated: BuildConfig) -> BuildConfig:
        """The stated configuration, with the cap t at which about so many shards come about."""
        samples = self.users * min(self.interactions - 1, stated.samples_per_user)
        in_training = samples * (100 - stated.validation_percent) / 100
        # A node is split when it holds more than t, so shards hold three quarters of t on average.
        cap = max(stated.samples_per_user, round(in_training / self.shards * 4 / 3))
        return replace(stated, max_shard_size=cap)


class StandIn(ProcessPool):
    """Makes up what processes with a model would compute: at once, but for training, and the same for the same input."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(1)
        self._plan = plan
        self._vectors = np.random.default_rng(plan.seed).standard_normal((4_096, _WIDTH)).astype(np.float32)
        self.trained = 0.0  # seconds spent on pretending to train

    def run(
        self, function: Callable[[Task, Report], Result], tasks: Sequence[Task], on_steps: Report = lambda steps: None
    ) -> Iterator[tuple[int, Result]]:
        """Run tasks like `ProcessPool.run`, without looking at `function`: the task says what is wanted."""
        for number, task in enumerate(tasks):
            result: Any = self._made_up(task)
            yield number, result

    def _made_up(self, task: object) -> object:
        if isinstance(task, TrainingTask):
            time.sleep(self._plan.training_seconds)
            self.trained += self._plan.training_seconds
            return Trained(self.adapter(task.recipe), {})
        if isinstance(task, ValidationTask):
            found = [self._validation(len(encoded_samples), task.adapters) for encoded_samples in task.users]
            return Validated(found, {})
        if isinstance(task, EmbeddingTask):
            return np.stack([self._placed(ids) for ids, *_ in task.groups])
        if isinstance(task, PublicTextsTask):
            return np.stack([self._placed(ids) for ids in task.texts])
        if isinstance(task, ItemModelTask):
            return solve_item_model(task, lambda steps: None)  # of counts, which are not made up
        raise TypeError(f"nothing is known of {type(task).__name__}")

    def adapter(self, name: str) -> dict[str, bytes]:
        """Files that the store takes for an adapter."""
        numbers = np.random.default_rng(int(name[:15], 16)).random(self._plan.adapter_bytes // 4, dtype=np.float32)
        return {"adapter_model.safetensors": safetensors.numpy.save({"numbers": numbers})}

    def _placed(self, ids: Sequence[int]) -> Floats:
        # The mean of a vector per token: texts that share words lie near each other, as they do for a model.
        mean = self._vectors[np.asarray(ids) % len(self._vectors)].mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)

    def _validation(self, rows: int, adapters: Collection[str]) -> UserValidation:
        return UserValidation(
            np.zeros((rows, _WIDTH), np.float32), dict.fromkeys(adapters, np.full(rows, 0.5, np.float32))
        )


def items() -> list[Item]:
    """A catalog of things that do not exist."""
    return [Item(f"{n:04}", f"Film {n:04} ({1950 + n % 70})", 1950 + n % 70, ("Drama",)) for n in range(_ITEMS)]


def user_id(number: int) -> str:
    return f"person-{number:08}"


def interactions_of(number: int, count: int, draw: random.Random) -> Iterator[Interaction]:
    """The interactions of one simulated person."""
    for step, item in enumerate(draw.sample(range(_ITEMS), count)):
        yield Interaction(user_id(number), f"{item:04}", draw.random() < 0.5, _START + step)


def check_size(config: BuildConfig, plan: Plan) -> None:
    """Raises TooLarge before anything is made."""
    people = round(plan.users * config.validation_percent / 100)
    rows = people * min(plan.interactions - 1, config.samples_per_user)
    needed = rows * plan.shards * _BYTES_AN_ERROR / _GIB
    if needed > _MOST_GIB:
        raise TooLarge(
            f"{rows:,} validation rows under {plan.shards:,} adapters are {rows * plan.shards:,} errors, about "
            f"{needed:,.0f} GiB while a generation is made; lower --validation-percent, --users or --shards"
        )

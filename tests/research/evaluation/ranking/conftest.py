"""A tiny world of ratings: people who like films at random, each film sooner by its own chance."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from research.evaluation.ranking.lethe import Workshop
from research.evaluation.ranking.protocols import (
    LAST_TENTH,
    HeldOut,
    Ratings,
    cut,
)
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.records import BuildConfig, Interaction, Item
from tests.exactness.homes import ENVIRONMENT, SMALLEST_MODEL, InThisProcess

PEOPLE, FILMS, ROWS = 40, 30, 14
CONFIG = BuildConfig(
    max_shard_size=60,
    tree_depth=1,
    samples_per_user=2,
    history_length=3,
    lora_rank=2,
    epochs=1,
    top_n=5,
    memory_shard_size=200,
)


@pytest.fixture(scope="session")
def ratings() -> Ratings:
    chance = random.Random(0)
    items = [Item(f"f{number}", f"Film {number} (1990)") for number in range(FILMS)]
    rows = []
    for person in range(PEOPLE):
        seen = sorted(range(FILMS), key=lambda film: chance.random() * (1 + film % 5))[:ROWS]
        rows += [Interaction(f"p{person}", f"f{film}", chance.random() < 0.7, when) for when, film in enumerate(seen)]
    return Ratings.of("tiny", "film", items, rows)


@pytest.fixture(scope="session")
def workshop(tiny_models: Callable[..., Path]) -> Workshop:
    """A tiny model, and tasks that run in this process."""
    torch.set_num_threads(1)
    frozen = FrozenModel.load(ModelSpec(str(tiny_models("llama", **SMALLEST_MODEL))))
    return Workshop(frozen, InThisProcess(), CONFIG, ENVIRONMENT)


@pytest.fixture(scope="session")
def split(ratings: Ratings) -> HeldOut:
    return cut(ratings, LAST_TENTH)

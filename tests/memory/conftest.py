"""Some people's interactions, drawn once."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from service.memory.counting import ShardCounts
from service.memory.live import Memory, Source
from service.records import Interaction

ITEMS = [f"item-{number:02}" for number in range(25)]


def source_of(shards: Mapping[str, ShardCounts], least_people: int = 1) -> Source:
    """Of shards by their names."""
    return Source(tuple(shards), shards.__getitem__, least_people)


def memory_of(shards: Mapping[str, ShardCounts], least_people: int = 1) -> Memory:
    """Of shards by their names, over `ITEMS`."""
    return Memory.of(source_of(shards, least_people), ITEMS)


def drawn(user: str, count: int, seed: int, *, ordered: bool = True) -> tuple[Interaction, ...]:
    """`count` interactions of one user with distinct items."""
    chance = random.Random(f"{user} {seed}")
    chosen = chance.sample(ITEMS, count)
    return tuple(
        Interaction(user, item, chance.random() < 0.7, 100 + n if ordered else 0) for n, item in enumerate(chosen)
    )


@pytest.fixture(scope="session")
def people() -> dict[str, tuple[Interaction, ...]]:
    """Twelve people with 0 to 24 interactions; of two of them no order is known."""
    return {f"person-{n}": drawn(f"person-{n}", 2 * n, 3, ordered=n not in (4, 9)) for n in range(12)}

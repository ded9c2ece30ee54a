"""A tiny world of ratings: people who like films at random, each film sooner by its own chance."""

from __future__ import annotations

import random

import pytest

from service.evaluation.ranking.protocols import Ratings
from service.records import Interaction, Item

PEOPLE, FILMS, ROWS = 40, 30, 14


@pytest.fixture(scope="session")
def ratings() -> Ratings:
    chance = random.Random(0)
    items = [Item(f"f{number}", f"Film {number} (1990)") for number in range(FILMS)]
    rows = []
    for person in range(PEOPLE):
        seen = sorted(range(FILMS), key=lambda film: chance.random() * (1 + film % 5))[:ROWS]
        rows += [Interaction(f"p{person}", f"f{film}", chance.random() < 0.7, when) for when, film in enumerate(seen)]
    return Ratings.of("tiny", "film", items, rows)

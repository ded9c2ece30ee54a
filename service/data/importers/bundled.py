"""The demo: a bundled catalogue of films, and simulated users."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources

import numpy as np

from service.data.importers.dataset import Dataset
from service.data.importers.tables import item_of
from service.data.simulated import FILM_TASTES, ItemFeatures, PublicFacts, simulate_person
from service.records import Interaction, Item

DEMO_USERS = 400
DEMO_FEWEST, DEMO_MOST = 20, 80  # interactions per simulated user
DEMO_SEED = 20_240
DEMO_START = 1_700_000_000  # seconds since the epoch
DEMO_STEP = 3_600
# As real people do, they see what they expect to like: without that nothing would be liked together more often than by chance.
DEMO_TASTES = replace(FILM_TASTES, genre_spread=1.0, seeking=3.0)


def demo() -> Dataset:
    """The bundled catalogue of films, and simulated users who always are the same. No real person's data."""
    text = resources.files("service.bundled").joinpath("demo_items.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    items = [item_of(row) for row in rows]
    features = ItemFeatures.of([_public_facts(item, row) for item, row in zip(items, rows, strict=True)])
    people = (_person(number, items, features) for number in range(1, DEMO_USERS + 1))
    return Dataset(items, [row for person in people for row in person], "movie", [])


def _public_facts(item: Item, row: Mapping[str, str]) -> PublicFacts:
    return PublicFacts(item.title, int(row["year"]), item.genres, float(row["vote_average"]), float(row["vote_count"]))


def _person(number: int, items: Sequence[Item], features: ItemFeatures) -> Iterator[Interaction]:
    rng = np.random.default_rng((DEMO_SEED, number))
    films, liked = simulate_person(features, DEMO_TASTES, int(rng.integers(DEMO_FEWEST, DEMO_MOST + 1)), rng)
    start = DEMO_START + int(rng.integers(0, 365 * 24)) * DEMO_STEP
    for step, (film, good) in enumerate(zip(films.tolist(), liked.tolist(), strict=True)):
        yield Interaction(f"demo-{number:03}", items[film].item_id, good, start + step * DEMO_STEP)

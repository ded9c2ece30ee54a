"""The demo: a bundled catalog of films, and simulated users."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from importlib import resources

from service.data.importers.dataset import Dataset
from service.data.importers.tables import item_of
from service.data.interactions import Interactions
from service.records import Interaction


def demo() -> Dataset:
    """The bundled catalog of films, and simulated users who always are the same. No real person's data."""
    items = [item_of(row) for row in _rows("demo_items.csv")]
    people = (
        Interaction(row["user_id"], row["item_id"], row["liked"] == "1", int(row["timestamp"]))
        for row in _rows("demo_people.csv")
    )
    return Dataset(items, Interactions.of(people), "movie", [])


def _rows(name: str) -> Iterator[Mapping[str, str]]:
    with resources.files("service.bundled").joinpath(name).open(encoding="utf-8") as lines:
        yield from csv.DictReader(lines)

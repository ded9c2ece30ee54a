"""Published data sets: a pair of files with known names, one of items and one of ratings, in one of several layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from service.data.importers.dataset import Dataset
from service.data.importers.files import find_file
from service.data.importers.rejections import Place, Rejections, Row, collect
from service.errors import ImportRefused
from service.records import Interaction, Item

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Part(Generic[_T]):
    """One file of a layout: its name, how it falls into rows, and what a row says (None: nothing that counts)."""

    name: str
    rows: Callable[[Path, Rejections], Iterator[tuple[Place, Row]]]
    parse: Callable[[Place, Row], _T | None]

    def read(self, path: Path, rejected: Rejections) -> list[_T]:
        return collect(self.rows(path, rejected), rejected, self.parse)


@dataclass(frozen=True, slots=True)
class Layout:
    """One form in which a data set is published."""

    ratings: Part[Interaction]
    items: Part[Item]


def read_published(folder: Path, layouts: Sequence[Layout], name: str, noun: str, max_rejected: int) -> Dataset:
    """Read the first layout of which both files are there. Ratings of unknown items are left out, and counted."""
    layout, ratings, items = _find(folder, layouts, name)
    rejected = Rejections(max_rejected)
    catalogue = layout.items.read(items, rejected)
    opinions = layout.ratings.read(ratings, rejected)
    known = {item.item_id for item in catalogue}
    interactions = [row for row in opinions if row.item_id in known]
    return Dataset(catalogue, interactions, noun, rejected.found, len(opinions) - len(interactions))


def _find(folder: Path, layouts: Sequence[Layout], name: str) -> tuple[Layout, Path, Path]:
    for layout in layouts:
        ratings, items = find_file(folder, layout.ratings.name), find_file(folder, layout.items.name)
        if ratings is not None and items is not None:
            return layout, ratings, items
    wanted = ", or ".join(f"{layout.ratings.name} and {layout.items.name}" for layout in layouts)
    raise ImportRefused(f"no {name} files in {folder}: looked for {wanted}; each may end in .xz or .gz")

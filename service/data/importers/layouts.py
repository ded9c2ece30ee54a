"""Published data sets: a pair of files with known names, one of items and one of ratings, in one of several layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.data.importers.dataset import Dataset, Terms
from service.data.importers.files import PACKED_NAMES, Watch, find_file
from service.data.importers.rejections import Rejections, Row
from service.data.importers.rows import Rows
from service.data.importers.taking import Manner, Taking
from service.errors import ImportRefused
from service.records import Item


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a layout: its name, and how it falls into rows with our names of columns."""

    name: str
    rows: Callable[[Path, Rejections, Watch | None], Rows]


@dataclass(frozen=True, slots=True)
class Layout:
    """One form in which a data set is published, and what a row of its items says."""

    ratings: Part
    items: Part
    item: Callable[[Row], Item]


def read_published(
    folder: Path, layouts: Sequence[Layout], name: str, item_type: str, manner: Manner, terms: Terms
) -> Dataset:
    """Read the first layout of which both files are there."""
    layout, ratings, items = _find(folder, layouts, name)
    taking = Taking.on(terms)
    catalog = taking.items(layout.items.rows(items, taking.rejected, taking.watch(items)), layout.item)
    rows = layout.ratings.rows(ratings, taking.rejected, taking.watch(ratings))
    return taking.dataset(catalog, taking.interactions(rows, manner, catalog), item_type)


def _find(folder: Path, layouts: Sequence[Layout], name: str) -> tuple[Layout, Path, Path]:
    for layout in layouts:
        ratings, items = find_file(folder, layout.ratings.name), find_file(folder, layout.items.name)
        if ratings is not None and items is not None:
            return layout, ratings, items
    wanted = ", or ".join(f"{layout.ratings.name} and {layout.items.name}" for layout in layouts)
    raise ImportRefused(f"no {name} files in {folder}: looked for {wanted}; each may end in {PACKED_NAMES}")

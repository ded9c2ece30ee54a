"""Public data sets and tables of one's own, as ratings that can be cut."""

from __future__ import annotations

from pathlib import Path

from research.evaluation.comparison.splits import table_file
from research.evaluation.ranking.protocols import Ratings
from service.data import importers

DATASETS = ("movielens-100k", "movielens-1m", "movielens-latest", "goodbooks", "table")


def read(dataset: str, folder: Path, item_type: str, liked_above: float | None) -> Ratings:
    """What a folder holds. `item_type` and `liked_above` are for tables.

    Raises ImportRefused for missing or damaged files.
    """
    if dataset == "table":
        files = (table_file(folder, "items"), table_file(folder, "interactions"))
        found = importers.table(*files, liked_above, item_type)
        return Ratings.of(folder.resolve().name, item_type, found.items, found.interactions)
    found = importers.goodbooks(folder) if dataset == "goodbooks" else importers.movielens(folder)
    return Ratings.of(dataset, found.item_type, found.items, found.interactions)

"""Tables of one's own, with our column names: CSV, JSONL or Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from service.data.importers.dataset import Dataset
from service.data.importers.fields import (
    as_author,
    as_genres,
    as_id,
    as_liked,
    as_rating,
    as_timestamp,
    as_title,
    as_year,
    is_blank,
)
from service.data.importers.files import format_suffix
from service.data.importers.rejections import MAX_REJECTED, MalformedRow, Place, Rejections, Row, collect
from service.data.importers.rows import csv_rows, jsonl_rows, parquet_rows
from service.errors import ImportRefused
from service.records import Interaction, Item

_FORMATS = {".csv": csv_rows, ".jsonl": jsonl_rows, ".parquet": parquet_rows}
_ITEM_COLUMNS = ("item_id", "title")
_INTERACTION_COLUMNS = ("user_id", "item_id", "timestamp")


def table(
    items_file: Path | None,
    interactions_file: Path | None,
    liked_above: float | None,
    noun: str,
    max_rejected: int = MAX_REJECTED,
) -> Dataset:
    """Tables of one's own: `.csv`, `.jsonl` or `.parquet`, each also with `.xz` or `.gz` behind.

    Items: `item_id`, `title`, and if known `year`, `genres` (a list, or separated by `|`), `author`. Interactions:
    `user_id`, `item_id`, `timestamp` (seconds, or ISO 8601, UTC where no zone is given), and `liked` (0, 1, true, false)
    or `rating`, which counts as liked above `liked_above`. Raises ImportRefused as `movielens` does.
    """
    rejected = Rejections(max_rejected)
    item_rows = _rows(items_file, rejected, _ITEM_COLUMNS)
    items = collect(item_rows, rejected, lambda _, row: item_of(row))
    interaction_rows = _rows(interactions_file, rejected, _INTERACTION_COLUMNS)
    interactions = collect(interaction_rows, rejected, lambda _, row: _interaction_of(row, liked_above))
    return Dataset(items, interactions, noun, rejected.found)


def _rows(path: Path | None, rejected: Rejections, required: Sequence[str]) -> Iterator[tuple[Place, Row]]:
    if path is None:
        return iter(())
    if not path.is_file():
        raise ImportRefused(f"there is no file {path}")
    rows = _FORMATS.get(format_suffix(path))
    if rows is None:
        raise ImportRefused(
            f"{path.name} is none of .csv, .jsonl and .parquet, nor one of these with .xz or .gz behind"
        )
    return rows(path, rejected, required)


def item_of(row: Row) -> Item:
    """Raises MalformedRow."""
    return Item(
        as_id(row["item_id"]),
        as_title(row["title"]),
        as_year(row.get("year")),
        as_genres(row.get("genres")),
        as_author(row.get("author")),
    )


def _interaction_of(row: Row, liked_above: float | None) -> Interaction:
    user_id, item_id, timestamp = as_id(row["user_id"]), as_id(row["item_id"]), as_timestamp(row["timestamp"])
    if not is_blank(row.get("liked")):
        return Interaction(user_id, item_id, as_liked(row["liked"]), timestamp)
    if is_blank(row.get("rating")):
        raise MalformedRow("has neither liked nor rating")
    if liked_above is None:
        raise ImportRefused("the interactions hold ratings; say above which rating an item counts as liked")
    return Interaction(user_id, item_id, as_rating(row["rating"]) > liked_above, timestamp)

"""Tables of one's own: delimited text, JSON, Parquet or RecBole's files, with our names of columns or a mapping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.data.importers.dataset import Dataset, Terms
from service.data.importers.fields import as_author, as_genres, as_id, as_title, as_year
from service.data.importers.rejections import Row, cell
from service.data.importers.rows import Rows
from service.data.importers.taking import Manner, Taking, renamed
from service.errors import ImportRefused
from service.records import Item

_ITEM_COLUMNS = ("item_id", "title", "year", "genres", "author")
_INTERACTION_COLUMNS = ("user_id", "item_id", "liked", "rating", "timestamp")
_REQUIRED_OF_ITEMS = ("item_id", "title")
_REQUIRED_OF_INTERACTIONS = ("user_id", "item_id")


def table(
    items_file: Path | None,
    interactions_file: Path | None,
    liked_above: float | None,
    item_type: str,
    terms: Terms = Terms(),  # noqa: B008
) -> Dataset:
    """Tables of one's own, by their suffix: delimited text, JSON lines or arrays, Parquet, RecBole's; each also packed.

    Items: `item_id`, `title`, and if known `year`, `genres` (a list, or separated by `|`), `author`. Interactions:
    `user_id`, `item_id`, `liked` (0, 1, true, false) or `rating`, which counts as liked above `liked_above`, or on implicit
    terms neither; and `timestamp` (seconds, milli-, micro- or nanoseconds, or ISO 8601, UTC where no zone is given): without
    that column the order of rows is their order in time. Raises ImportRefused as `movielens` does.
    """
    unknown = terms.columns.keys() - {*_ITEM_COLUMNS, *_INTERACTION_COLUMNS}
    if unknown:
        known = ", ".join(dict.fromkeys((*_INTERACTION_COLUMNS, *_ITEM_COLUMNS)))
        raise ImportRefused(f"--column {min(unknown)}=…: there is no such column; the names before = are {known}")
    taking = Taking.on(terms)
    items = None
    if items_file is not None:
        items = taking.items(_rows(taking, items_file, _ITEM_COLUMNS, _REQUIRED_OF_ITEMS), item_of)
    rows: Rows = iter(())
    if interactions_file is not None:
        rows = _rows(taking, interactions_file, _INTERACTION_COLUMNS, _REQUIRED_OF_INTERACTIONS)
    interactions = taking.interactions(rows, Manner(liked_above), items)
    return taking.dataset(items or [], interactions, item_type)


def _rows(taking: Taking, path: Path, columns: Sequence[str], required: Sequence[str]) -> Rows:
    mapped = {ours: theirs for ours, theirs in taking.terms.columns.items() if ours in columns}
    wanted = dict.fromkeys((*(mapped.get(column, column) for column in required), *mapped.values()))
    rows = taking.rows(path, list(wanted))
    return renamed(rows, mapped) if mapped else rows


def item_of(row: Row) -> Item:
    """Raises MalformedRow."""
    return Item(
        cell(row, "item_id", as_id),
        cell(row, "title", as_title),
        cell(row, "year", as_year),
        cell(row, "genres", as_genres),
        cell(row, "author", as_author),
    )

"""Goodreads of the UCSD Book Graph (Wan and McAuley 2018): interactions and books as JSON lines, or interactions as CSV."""

from __future__ import annotations

from pathlib import Path

from service.data.importers.dataset import Dataset, Terms
from service.data.importers.fields import as_id, as_title, as_year
from service.data.importers.rejections import Row, cell
from service.data.importers.taking import Manner, Taking, renamed
from service.records import Item

LIKED_ABOVE = 3.0

_UNRATED = 0.0
_INTERACTION: dict[str, str | tuple[str, ...]] = {"item_id": "book_id", "timestamp": ("date_updated", "date_added")}
_BOOK: dict[str, str | tuple[str, ...]] = {"item_id": "book_id", "title": ("title", "title_without_series")}


def goodreads(interactions: Path, books: Path | None, terms: Terms = Terms()) -> Dataset:  # noqa: B008
    """Interactions, and the books if they are there. Authors are left out: the books name them by number only.

    Liked means more than 3 stars. Rows with rating 0 are left out unless on implicit terms: they say that a book is on a
    shelf. The CSV has no times, so a row's line number stands for its time. Raises ImportRefused as `movielens` does.
    """
    taking = Taking.on(terms)
    items = None if books is None else taking.items(renamed(taking.rows(books, ["book_id"]), _BOOK), _book)
    rows = renamed(taking.rows(interactions, ["user_id", "book_id"]), _INTERACTION)
    return taking.dataset(items or [], taking.interactions(rows, Manner(LIKED_ABOVE, _UNRATED), items), "book")


def _book(row: Row) -> Item:
    return Item(cell(row, "item_id", as_id), cell(row, "title", as_title), cell(row, "publication_year", as_year))

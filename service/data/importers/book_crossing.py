"""Book-Crossing, as published (Ziegler et al. 2005) and in subsets of it that others made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.data.importers.dataset import Dataset, Terms
from service.data.importers.fields import as_author, as_id, as_title, as_year
from service.data.importers.files import Watch
from service.data.importers.layouts import Layout, Part, read_published
from service.data.importers.rejections import Rejections, Row, cell
from service.data.importers.rows import Rows, csv_rows
from service.data.importers.taking import Manner, renamed
from service.records import Item

LIKED_ABOVE = 5.0

_UNRATED = 0.0
_RATING_COLUMNS = {"user_id": "User-ID", "item_id": "ISBN", "rating": "Book-Rating"}
_BOOK_COLUMNS = ("ISBN", "Book-Title", "Book-Author", "Year-Of-Publication")


def bookcrossing(folder: Path, terms: Terms = Terms()) -> Dataset:  # noqa: B008
    """Book-Crossing: the original `BX-Book-Ratings.csv` and `BX-Books.csv`, or a subset of them in UTF-8.

    Liked means a rating above 5. Rows with rating 0 are left out unless on implicit terms: they say that a book was met, not
    what was thought of it. There are no times, so a row's line number stands for its time. Many ratings name books that the
    book file lacks: rejections, which may be too many. Raises ImportRefused as `movielens` does.
    """
    return read_published(folder, _LAYOUTS, "Book-Crossing", "book", Manner(LIKED_ABOVE, _UNRATED), terms)


def _book(row: Row) -> Item:
    year, author = cell(row, "Year-Of-Publication", as_year), cell(row, "Book-Author", as_author)
    return Item(cell(row, "ISBN", as_id), cell(row, "Book-Title", as_title), year, (), author)


def _layout(ratings: str, books: str, **form: Any) -> Layout:
    def rating_rows(path: Path, rejected: Rejections, watch: Watch | None) -> Rows:
        return renamed(csv_rows(path, rejected, tuple(_RATING_COLUMNS.values()), watch=watch, **form), _RATING_COLUMNS)

    def book_rows(path: Path, rejected: Rejections, watch: Watch | None) -> Rows:
        return csv_rows(path, rejected, _BOOK_COLUMNS, watch=watch, **form)

    return Layout(Part(ratings, rating_rows), Part(books, book_rows), _book)


_LAYOUTS = (
    _layout("BX-Book-Ratings.csv", "BX-Books.csv", fallback="latin-1", delimiter=";", escapechar="\\"),
    _layout("subset_BX-Ratings.csv", "subset_BX-Books.csv"),
    _layout("merged_ratings.csv", "merged_books.csv"),
)

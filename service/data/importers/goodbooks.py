"""goodbooks-10k (Zajac 2017): ratings of ten thousand books, without times."""

from __future__ import annotations

from pathlib import Path

from service.data.importers.dataset import Dataset, Terms
from service.data.importers.fields import as_author, as_id, as_title, as_year
from service.data.importers.files import Watch
from service.data.importers.layouts import Layout, Part, read_published
from service.data.importers.rejections import Rejections, Row, cell
from service.data.importers.rows import Rows, csv_rows
from service.data.importers.taking import Manner, renamed
from service.records import Item

LIKED_ABOVE = 3.0

_NO_TIME = 0
_BOOK_COLUMNS = ("book_id", "title", "original_publication_year", "authors")


def goodbooks(folder: Path, terms: Terms = Terms()) -> Dataset:  # noqa: B008
    """goodbooks-10k: `ratings.csv` and `books.csv`, or the first release's `ratings_v1.csv` beside `books_v2.csv`.

    Liked means a rating above 3. There are no times and the ratings are sorted by book, so every row has the same time: the
    order of lines says nothing about people. Raises ImportRefused as `movielens` does.
    """
    manner = Manner(LIKED_ABOVE, untimed=_NO_TIME)
    return read_published(folder, _LAYOUTS, "goodbooks-10k", "book", manner, terms)


def _ratings(path: Path, rejected: Rejections, watch: Watch | None) -> Rows:
    return renamed(csv_rows(path, rejected, ("user_id", "book_id", "rating"), watch=watch), {"item_id": "book_id"})


def _books(path: Path, rejected: Rejections, watch: Watch | None) -> Rows:
    return csv_rows(path, rejected, _BOOK_COLUMNS, watch=watch)


def _book(row: Row) -> Item:
    # The author comes first; translators and illustrators follow.
    author = as_author(row["authors"].partition(",")[0])
    year = cell(row, "original_publication_year", as_year)
    return Item(cell(row, "book_id", as_id), cell(row, "title", as_title), year, (), author)


_LAYOUTS = tuple(
    Layout(Part(ratings, _ratings), Part(books, _books), _book)
    for ratings, books in (("ratings.csv", "books.csv"), ("ratings_v1.csv", "books_v2.csv"))
)

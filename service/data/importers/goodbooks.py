"""goodbooks-10k (Zajac 2017): ratings of ten thousand books, without times."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from service.data.importers.dataset import Dataset
from service.data.importers.fields import as_author, as_id, as_rating, as_title, as_year
from service.data.importers.layouts import Layout, Part, read_published
from service.data.importers.rejections import MAX_REJECTED, Place, Row
from service.data.importers.rows import csv_rows
from service.records import Interaction, Item

LIKED_ABOVE = 3.0

_NO_TIME = 0


def goodbooks(folder: Path, max_rejected: int = MAX_REJECTED) -> Dataset:
    """goodbooks-10k: `ratings.csv` and `books.csv`, or the first release's `ratings_v1.csv` beside `books_v2.csv`.

    Liked means a rating above 3. There are no times and the ratings are sorted by book, so every row has the same time: the
    order of lines says nothing about people. Raises ImportRefused as `movielens` does.
    """
    return read_published(folder, _LAYOUTS, "goodbooks-10k", "book", max_rejected)


def _rating(_place: Place, row: Row) -> Interaction:
    return Interaction(as_id(row["user_id"]), as_id(row["book_id"]), as_rating(row["rating"]) > LIKED_ABOVE, _NO_TIME)


def _book(_place: Place, row: Row) -> Item:
    # The author comes first; translators and illustrators follow.
    year, author = as_year(row["original_publication_year"]), as_author(row["authors"].partition(",")[0])
    return Item(as_id(row["book_id"]), as_title(row["title"]), year, (), author)


_BOOK_COLUMNS = ("book_id", "title", "original_publication_year", "authors")
_RATING_COLUMNS = ("user_id", "book_id", "rating")
_LAYOUTS = tuple(
    Layout(
        Part(ratings, partial(csv_rows, required=_RATING_COLUMNS), _rating),
        Part(books, partial(csv_rows, required=_BOOK_COLUMNS), _book),
    )
    for ratings, books in (("ratings.csv", "books.csv"), ("ratings_v1.csv", "books_v2.csv"))
)

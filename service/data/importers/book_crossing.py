"""Book-Crossing, as published (Ziegler et al. 2005) and in subsets of it that others made."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from service.data.importers.dataset import Dataset
from service.data.importers.fields import as_author, as_id, as_rating, as_title, as_year
from service.data.importers.layouts import Layout, Part, read_published
from service.data.importers.rejections import MAX_REJECTED, Place, Row
from service.data.importers.rows import csv_rows
from service.records import Interaction, Item

LIKED_ABOVE = 5.0


def bookcrossing(folder: Path, max_rejected: int = MAX_REJECTED) -> Dataset:
    """Book-Crossing: the original `BX-Book-Ratings.csv` and `BX-Books.csv`, or a subset of them in UTF-8.

    Liked means a rating above 5. Rows with rating 0 are left out: they say that a book was met, not what was thought of
    it. There are no times, so a row's line number stands for its time. Many ratings name books that the book file
    lacks; they are left out and counted as `unknown_items`. Raises ImportRefused as `movielens` does.
    """
    return read_published(folder, _LAYOUTS, "Book-Crossing", "book", max_rejected)


def _rating(place: Place, row: Row) -> Interaction | None:
    rating = as_rating(row["Book-Rating"])
    user_id, item_id = as_id(row["User-ID"]), as_id(row["ISBN"])
    return Interaction(user_id, item_id, rating > LIKED_ABOVE, place.line) if rating != 0 else None


def _book(_place: Place, row: Row) -> Item:
    year, author = as_year(row["Year-Of-Publication"]), as_author(row["Book-Author"])
    return Item(as_id(row["ISBN"]), as_title(row["Book-Title"]), year, (), author)


def _layout(ratings: str, books: str, **form: Any) -> Layout:
    rating_columns = ("User-ID", "ISBN", "Book-Rating")
    book_columns = ("ISBN", "Book-Title", "Book-Author", "Year-Of-Publication")
    return Layout(
        Part(ratings, partial(csv_rows, required=rating_columns, **form), _rating),
        Part(books, partial(csv_rows, required=book_columns, **form), _book),
    )


_LAYOUTS = (
    _layout("BX-Book-Ratings.csv", "BX-Books.csv", encoding="latin-1", delimiter=";", escapechar="\\"),
    _layout("subset_BX-Ratings.csv", "subset_BX-Books.csv"),
    _layout("merged_ratings.csv", "merged_books.csv"),
)

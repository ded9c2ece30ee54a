"""MovieLens, in the forms in which GroupLens published it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from service.data.importers.dataset import Dataset, Terms
from service.data.importers.fields import as_genres, as_id, as_liked, as_title
from service.data.importers.files import Watch
from service.data.importers.layouts import Layout, Part, read_published
from service.data.importers.rejections import Rejections, Row, cell
from service.data.importers.rows import Rows, csv_rows, split_rows
from service.data.importers.taking import Manner, renamed
from service.records import Item

LIKED_ABOVE = 3.0
GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
NO_GENRES = "(no genres listed)"

_YEAR_IN_TITLE = re.compile(r"\((\d{4})\)")


def movielens(folder: Path, terms: Terms = Terms()) -> Dataset:  # noqa: B008
    """MovieLens 100K (`u.data`, `u.item`), 1M and 10M (`.dat`) or 20M, 25M, 32M and latest (`ratings.csv`, `movies.csv`).

    Liked means a rating above 3. Raises ImportRefused for missing or damaged files, for too many rows that cannot be
    taken, and where of a file not one can.
    """
    return read_published(folder, _LAYOUTS, "MovieLens", "movie", Manner(LIKED_ABOVE), terms)


def _movie(row: Row) -> Item:
    title = cell(row, "title", as_title)
    named = [genre for genre in row["genres"].split("|") if genre != NO_GENRES]
    return Item(cell(row, "movieId", as_id), title, _year_of_title(title), as_genres(named))


def _flagged_movie(row: Row) -> Item:
    title = cell(row, "title", as_title)
    named = tuple(genre for genre in GENRES if cell(row, genre, as_liked))
    return Item(cell(row, "movieId", as_id), title, _year_of_title(title), named)


def _year_of_title(title: str) -> int | None:
    years = _YEAR_IN_TITLE.findall(title)
    return int(years[-1]) if years else None


_RATING = ("user_id", "item_id", "rating", "timestamp")
_RATING_COLUMNS = {"user_id": "userId", "item_id": "movieId"}
_MOVIE = ("movieId", "title", "genres")
_FLAGGED_MOVIE = ("movieId", "title", "released", "video", "url", "unknown", *GENRES)


def _split(names: Sequence[str], separator: str) -> Callable[[Path, Rejections, Watch | None], Rows]:
    # 100K and 1M are in Latin-1, as their documentation says; 10M, in the form of 1M, is in UTF-8.
    return lambda path, rejected, watch: split_rows(path, rejected, names, separator, "latin-1", watch)


def _csv_ratings(path: Path, rejected: Rejections, watch: Watch | None) -> Rows:
    return renamed(csv_rows(path, rejected, ("userId", "movieId", *_RATING[2:]), watch=watch), _RATING_COLUMNS)


def _csv_movies(path: Path, rejected: Rejections, watch: Watch | None) -> Rows:
    return csv_rows(path, rejected, _MOVIE, watch=watch)


_LAYOUTS = (
    Layout(Part("u.data", _split(_RATING, "\t")), Part("u.item", _split(_FLAGGED_MOVIE, "|")), _flagged_movie),
    Layout(Part("ratings.dat", _split(_RATING, "::")), Part("movies.dat", _split(_MOVIE, "::")), _movie),
    Layout(Part("ratings.csv", _csv_ratings), Part("movies.csv", _csv_movies), _movie),
)

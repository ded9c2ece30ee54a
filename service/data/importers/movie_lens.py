"""MovieLens, in the three forms in which GroupLens published it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from service.data.importers.dataset import Dataset
from service.data.importers.fields import as_genres, as_id, as_liked, as_rating, as_timestamp, as_title
from service.data.importers.layouts import Layout, Part, read_published
from service.data.importers.rejections import MAX_REJECTED, Place, Row
from service.data.importers.rows import csv_rows, split_rows
from service.records import Interaction, Item

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


def movielens(folder: Path, max_rejected: int = MAX_REJECTED) -> Dataset:
    """MovieLens 100K (`u.data`, `u.item`), 1M (`ratings.dat`, `movies.dat`) or later (`ratings.csv`, `movies.csv`).

    Liked means a rating above 3. Raises ImportRefused for missing or damaged files and too many malformed rows.
    """
    return read_published(folder, _LAYOUTS, "MovieLens", "movie", max_rejected)


def _rating(_place: Place, row: Row) -> Interaction:
    liked = as_rating(row["rating"]) > LIKED_ABOVE
    return Interaction(as_id(row["userId"]), as_id(row["movieId"]), liked, as_timestamp(row["timestamp"]))


def _movie(_place: Place, row: Row) -> Item:
    title = as_title(row["title"])
    named = [genre for genre in row["genres"].split("|") if genre != NO_GENRES]
    return Item(as_id(row["movieId"]), title, _year_of_title(title), as_genres(named))


def _flagged_movie(_place: Place, row: Row) -> Item:
    title = as_title(row["title"])
    named = tuple(genre for genre in GENRES if as_liked(row[genre]))
    return Item(as_id(row["movieId"]), title, _year_of_title(title), named)


def _year_of_title(title: str) -> int | None:
    years = _YEAR_IN_TITLE.findall(title)
    return int(years[-1]) if years else None


_RATING = ("userId", "movieId", "rating", "timestamp")
_MOVIE = ("movieId", "title", "genres")
_FLAGGED_MOVIE = ("movieId", "title", "released", "video", "url", "unknown", *GENRES)

_tabbed = partial(split_rows, separator="\t", encoding="latin-1")
_piped = partial(split_rows, separator="|", encoding="latin-1")
_coloned = partial(split_rows, separator="::", encoding="latin-1")

_LAYOUTS = (
    Layout(
        Part("u.data", partial(_tabbed, names=_RATING), _rating),
        Part("u.item", partial(_piped, names=_FLAGGED_MOVIE), _flagged_movie),
    ),
    Layout(
        Part("ratings.dat", partial(_coloned, names=_RATING), _rating),
        Part("movies.dat", partial(_coloned, names=_MOVIE), _movie),
    ),
    Layout(
        Part("ratings.csv", partial(csv_rows, required=_RATING), _rating),
        Part("movies.csv", partial(csv_rows, required=_MOVIE), _movie),
    ),
)

"""MovieLens-1M in order of time, from GroupLens' files or from a reconstruction that tells which of its times are exact.

The reconstruction (`ratings_reconstructed.csv`, columns user_id, movie_id, rating, timestamp, ts_src, rank) has every row, and
the exact order of each person's rows; a row's time is exact where `ts_src` is E, and otherwise somewhere in a known interval.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.data import importers
from service.data.importers.dataset import Limit
from service.data.importers.fields import as_genres, as_id, as_rating, as_title
from service.data.importers.files import find_file
from service.data.importers.movie_lens import LIKED_ABOVE
from service.data.importers.rejections import Rejections, Row, RowLocation, cell, collect
from service.data.importers.rows import csv_rows, split_rows
from service.records import Interaction, Item

RECONSTRUCTION = "ratings_reconstructed.csv"

_COLUMNS = ("user_id", "movie_id", "rating", "timestamp", "ts_src", "rank")
_EXACT = "E"
_YEAR = re.compile(r"\((\d{4})\)\s*$")


@dataclass(frozen=True, slots=True)
class TimedRow:
    """One rating, its place among the person's own, and whether its time is known to the second."""

    interaction: Interaction
    place: int
    exact: bool


@dataclass(frozen=True, slots=True)
class TimedRatings:
    """Films, and what people thought of them, in no order."""

    items: tuple[Item, ...]
    rows: tuple[TimedRow, ...]


def movielens_1m(folder: Path) -> TimedRatings:
    """`ratings.dat` and `movies.dat`, or the reconstruction and `movies.dat`; each may be packed. Liked is a rating above 3.

    Raises ImportRefused for missing or damaged files.
    """
    reconstruction, films = find_file(folder, RECONSTRUCTION), find_file(folder, "movies.dat")
    if reconstruction is None or films is None:
        dataset = importers.movielens(folder)
        return TimedRatings(tuple(dataset.items), tuple(TimedRow(row, 0, True) for row in dataset.interactions))
    rejected = Rejections(Limit())
    names = ("movieId", "title", "genres")
    items = tuple(collect(split_rows(films, rejected, names, "::", "latin-1"), rejected, _film))
    rows = tuple(_known(collect(csv_rows(reconstruction, rejected, _COLUMNS), rejected, _row), items))
    rejected.settle()
    return TimedRatings(items, rows)


def _known(rows: Iterator[TimedRow], items: tuple[Item, ...]) -> Iterator[TimedRow]:
    known = {item.item_id for item in items}
    return (row for row in rows if row.interaction.item_id in known)


def _film(_place: RowLocation, row: Row) -> Item:
    title = cell(row, "title", as_title)
    year = _YEAR.search(title)
    genres = as_genres(row["genres"].split("|"))
    return Item(cell(row, "movieId", as_id), title, int(year[1]) if year else None, genres)


def _row(_place: RowLocation, row: Row) -> TimedRow:
    rating = cell(row, "rating", as_rating)
    seconds, place = (int(cell(row, column, as_rating)) for column in ("timestamp", "rank"))
    user, item = cell(row, "user_id", as_id), cell(row, "movie_id", as_id)
    return TimedRow(Interaction(user, item, rating > LIKED_ABOVE, seconds, rating), place, row["ts_src"] == _EXACT)

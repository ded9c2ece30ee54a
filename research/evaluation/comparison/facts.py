"""What the public thinks of films, for the `logistic` row: average votes and vote counts. Never a row of ratings.

They come from a folder of public catalog facts that is no part of the project. Without it, or for an item that it does
not hold, the row knows an item's own facts only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.data.importers.dataset import Limit
from service.data.importers.fields import as_rating, as_title, as_year, is_blank
from service.data.importers.files import find_file
from service.data.importers.rejections import Rejections, Row, RowLocation, collect
from service.data.importers.rows import csv_rows
from service.errors import ImportRefused
from service.records import Item

FILM_FACTS = "movie_knowledge/movies_metadata_clean_45k.csv"

_COLUMNS = ("title", "year", "vote_average", "vote_count")
_YEAR_BEHIND = re.compile(r"\s*\(\d{4}\)\s*$")
_IN_PARENTHESES = re.compile(r"\(([^)]*)\)")
_ARTICLE_BEHIND = re.compile(r"(?P<name>.*), (?P<article>the|a|an|la|le|les|il|el|das|der|die|l')", re.IGNORECASE)
_YEARS_APART = (0, -1, 1)  # catalogs differ on when a film of December came out


@dataclass(frozen=True, slots=True)
class PublicOpinion:
    """What the public thinks of one item. `vote_average` is on a scale of 0 to 10."""

    vote_average: float
    vote_count: float


PublicItemFacts = Mapping[str, PublicOpinion]  # by item id

_Film = tuple[str, int]  # folded name, year


def public_facts(folder: Path | None, items: Iterable[Item]) -> PublicItemFacts:
    """Facts of those items whose title and year the film facts of `folder` hold; of no item where there is no folder.

    Of several films with one title and year the one with most votes counts. Raises ImportRefused where the folder lacks the
    file, or where it is damaged.
    """
    if folder is None:
        return {}
    films = _films(folder)
    found = {item.item_id: next((films[film] for film in _meant(item) if film in films), None) for item in items}
    return {item_id: opinion for item_id, opinion in found.items() if opinion is not None}


def _films(folder: Path) -> dict[_Film, PublicOpinion]:
    path = find_file(folder, FILM_FACTS)
    if path is None:
        raise ImportRefused(f"there is no {FILM_FACTS} in {folder}; it may end in .xz or .gz")
    rejected = Rejections(Limit())
    rows = list(collect(csv_rows(path, rejected, _COLUMNS), rejected, _film))
    rejected.settle()
    return dict(sorted(rows, key=lambda row: row[1].vote_count))  # so that of one name the last, most voted, stays


def _film(_place: RowLocation, row: Row) -> tuple[_Film, PublicOpinion] | None:
    year = as_year(row["year"])
    if year is None or any(is_blank(row[column]) for column in _COLUMNS):
        return None
    opinion = PublicOpinion(as_rating(row["vote_average"]), as_rating(row["vote_count"]))
    return (_folded(as_title(row["title"])), year), opinion


def _meant(item: Item) -> Iterator[_Film]:
    """What a list of films may call the item, likeliest first."""
    if item.year is not None:
        yield from ((name, item.year + apart) for name in _names(item.title) for apart in _YEARS_APART)


def _names(title: str) -> Iterator[str]:
    """The names in a title: of "Postino, Il (Postman, The) (1994)" these are ilpostino and thepostman."""
    named = _YEAR_BEHIND.sub("", title)
    yield from filter(None, map(_folded, (_IN_PARENTHESES.sub("", named), *_IN_PARENTHESES.findall(named))))


def _folded(name: str) -> str:
    moved = _ARTICLE_BEHIND.fullmatch(name.strip())
    spoken = f"{moved['article']} {moved['name']}" if moved else name
    plain = unicodedata.normalize("NFKD", spoken.lower().replace("&", " and "))
    return "".join(letter for letter in plain if letter.isalnum() and letter.isascii())

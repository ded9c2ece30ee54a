"""Public catalogue facts for pretraining: titles, years, genres, average votes and vote counts. Never a row of ratings."""

from __future__ import annotations

import ast
import csv
import lzma
import re
from collections.abc import Iterator
from pathlib import Path

from service.data.simulated import PublicFacts

FILM_FACTS = Path("movie_knowledge/movies_metadata_clean_45k.csv.xz")
FILM_TITLES = Path("ml-latest-small/movies.csv.xz")

_ARTICLES = ("The", "A", "An", "La", "Le", "Les", "Il", "El", "Das", "Der", "Die", "L'")
_TITLE_AND_YEAR = re.compile(r"^(?P<name>.*\S)\s*\((?P<year>\d{4})\)\s*$")


def films(corpus: Path, least_votes: int) -> list[PublicFacts]:
    """Films that at least `least_votes` people voted for, a fifth of it if a second list names them; sorted by title.

    Raises:
        FileNotFoundError: the corpus folder lacks one of its two files.
    """
    spellings = _spellings(corpus / FILM_TITLES)
    found: dict[str, PublicFacts] = {}
    for facts in _film_facts(corpus / FILM_FACTS):
        spelling = spellings.get(_identity(facts.title))
        if facts.vote_count >= (least_votes if spelling is None else least_votes / 5):
            named = PublicFacts(spelling or facts.title, facts.year, facts.genres, facts.vote_average, facts.vote_count)
            known = found.get(named.title)
            if known is None or known.vote_count < named.vote_count:
                found[named.title] = named
    return sorted(found.values(), key=lambda film: film.title)


def catalogue_title(name: str, year: int) -> str:
    """The spelling of film catalogues: "Heat (1995)", with a leading article moved behind: "Matrix, The (1999)"."""
    first, _, rest = name.partition(" ")
    return f"{rest}, {first} ({year})" if first in _ARTICLES and rest else f"{name} ({year})"


def plain_title(title: str) -> str:
    """The spoken form of a catalogue title: "Matrix, The (1999)" -> "The Matrix (1999)"."""
    match = _TITLE_AND_YEAR.match(title)
    name = match["name"] if match else title
    head, comma, article = name.rpartition(", ")
    if comma and article in _ARTICLES:
        name = f"{article} {head}"
    return f"{name} ({match['year']})" if match else name


def _film_facts(path: Path) -> Iterator[PublicFacts]:
    for row in _rows(path):
        if row["year"] and row["title"] and row["vote_count"]:
            year = int(float(row["year"]))
            yield PublicFacts(
                title=catalogue_title(row["title"].strip(), year),
                year=year,
                genres=tuple(ast.literal_eval(row["genres"])),
                vote_average=float(row["vote_average"]),
                vote_count=float(row["vote_count"]),
            )


def _spellings(path: Path) -> dict[str, str]:
    return {_identity(row["title"]): row["title"].strip() for row in _rows(path)}


def _identity(title: str) -> str:
    match = _TITLE_AND_YEAR.match(title)
    if match is None:
        return title
    name = re.sub(r" \([^)]*\)", "", match["name"])  # other-language titles in parentheses
    return re.sub(r"[^a-z0-9]", "", plain_title(f"{name} ({match['year']})").lower())


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with lzma.open(path, "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)

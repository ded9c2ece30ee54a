"""Public facts of films for pretraining: titles, years, genres, keywords, votes. Never a row of ratings."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from research.pretraining.corpus import Entry, rows
from research.pretraining.simulated import PublicFacts

FILM_FACTS = Path("movie_knowledge/movies_metadata_clean_45k.csv.xz")
FILM_TITLES = Path("ml-latest-small/movies.csv.xz")
FILM_KEYWORDS = Path("movie_knowledge/tmdb_5000_movies.csv.xz")

_ARTICLES = ("The", "A", "An", "La", "Le", "Les", "Il", "El", "Das", "Der", "Die", "L'")
_TITLE_AND_YEAR = re.compile(r"^(?P<name>.*\S)\s*\((?P<year>\d{4})\)\s*$")
_KEYWORDS_KEPT = 6


def films(corpus: Path, least_votes: int) -> list[Entry]:
    """Films that at least `least_votes` people voted for, a fifth of it if a second list names them; sorted by title.

    Raises:
        FileNotFoundError: the corpus folder lacks one of its files.
    """
    spellings = {_identity(row["title"]): row["title"].strip() for row in rows(corpus / FILM_TITLES)}
    keywords = dict(_keywords(corpus / FILM_KEYWORDS))
    found: dict[str, Entry] = {}
    for facts in _film_facts(corpus / FILM_FACTS):
        identity = _identity(facts.title)
        spelling = spellings.get(identity)
        if facts.vote_count >= (least_votes if spelling is None else least_votes / 5):
            known = found.get(identity)
            if known is None or known.facts.vote_count < facts.vote_count:
                found[identity] = _entry(facts, spelling or facts.title, keywords.get(identity, ()))
    return sorted(found.values(), key=lambda entry: entry.facts.title)


def catalog_title(name: str, year: int) -> str:
    """The spelling of film catalogs: "Heat (1995)", with a leading article moved behind: "Matrix, The (1999)"."""
    first, _, rest = name.partition(" ")
    return f"{rest}, {first} ({year})" if first in _ARTICLES and rest else f"{name} ({year})"


def plain_title(title: str) -> str:
    """The spoken form of a catalog title: "Matrix, The (1999)" -> "The Matrix (1999)"."""
    name, year = name_and_year(title)
    head, comma, article = name.rpartition(", ")
    if comma and article in _ARTICLES:
        name = f"{article} {head}"
    return f"{name} ({year})" if year else name


def bare_name(title: str) -> str:
    """The name without year and without a moved article: what every spelling of the title shares."""
    name, _ = name_and_year(title)
    name = name.split(" (")[0]
    head, comma, article = name.rpartition(", ")
    return head if comma and article in _ARTICLES else name


def name_and_year(title: str) -> tuple[str, str]:
    """ "Heat (1995)" -> ("Heat", "1995"); the year is empty where there is none."""
    match = _TITLE_AND_YEAR.match(title)
    return (match["name"], match["year"]) if match else (title, "")


def _entry(facts: PublicFacts, title: str, keywords: tuple[str, ...]) -> Entry:
    named = PublicFacts(title, facts.year, facts.genres, facts.vote_average, facts.vote_count)
    own = f"{name_and_year(title)[0]} ({facts.year})"  # the second list often states another year
    forms = dict.fromkeys((title, own, plain_title(title), plain_title(title), name_and_year(title)[0]))
    return Entry("movie", named, tuple(forms), keywords, bare_name(title))


def _film_facts(path: Path) -> Iterator[PublicFacts]:
    for row in rows(path):
        if row["year"] and row["title"] and row["vote_count"]:
            year = int(float(row["year"]))
            yield PublicFacts(
                title=catalog_title(" ".join(row["title"].split()), year),
                year=year,
                genres=tuple(ast.literal_eval(row["genres"])),
                vote_average=float(row["vote_average"]),
                vote_count=float(row["vote_count"]),
            )


def _keywords(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    for row in rows(path):
        year = row["release_date"][:4]
        if year:
            words = [entry["name"] for entry in json.loads(row["keywords"])]
            yield _identity(catalog_title(row["title"].strip(), int(year))), tuple(words[:_KEYWORDS_KEPT])


def _identity(title: str) -> str:
    name, year = name_and_year(title)
    name = re.sub(r" \([^)]*\)", "", name)  # other-language titles in parentheses
    return re.sub(r"[^a-z0-9]", "", plain_title(f"{name} ({year})").lower())

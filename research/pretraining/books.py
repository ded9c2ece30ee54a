"""Public facts of books for pretraining: titles, authors, years, shelf genres, average ratings and their counts.

Never a row of ratings. Titles and authors are spelled as two public lists spell them; only the second knows votes.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from pathlib import Path

from research.pretraining.corpus import Entry, rows
from research.pretraining.simulated import PublicFacts

BOOK_TITLES = Path("bookcrossing/merged_books.csv.xz")
BOOK_FACTS = Path("goodbooks-10k/books_enriched.csv.xz")
BOOK_SHELVES = Path("goodbooks-10k/book_tags_reduced.csv.xz")
SHELF_NAMES = Path("goodbooks-10k/tags_reduced.csv.xz")

# The shelves that are genres; the others hold what readers did with a book.
# fmt: off
GENRES = frozenset({
    "fiction", "classics", "fantasy", "mystery", "thriller", "romance", "science-fiction", "young-adult",
    "historical-fiction", "horror", "non-fiction", "biography", "memoir", "history", "childrens", "poetry", "humor",
    "chick-lit", "crime", "graphic-novels", "philosophy", "psychology", "self-help", "travel", "religion",
    "paranormal", "adventure", "contemporary", "short-stories", "suspense", "dystopian", "business", "science",
    "true-crime",
})
# fmt: on
_GENRES_KEPT = 4
_VOTES_PER_VOTE = 300.0  # readers of the second list, per voter of the film list
_USUAL_RATING = 3.95
_USUAL_YEAR = 1995


def books(corpus: Path) -> list[Entry]:
    """The books of both lists, one entry per title and author, sorted.

    Raises:
        FileNotFoundError: the corpus folder lacks one of its files.
    """
    known = _known(corpus)
    found: dict[tuple[str, str], Entry] = {}
    for row in rows(corpus / BOOK_TITLES):
        title, author = _clean(row["Book-Title"]), _clean(row["Book-Author"])
        if title and author:
            facts = known.get(_identity(title, author)) or _unknown(title, author, row["Year-Of-Publication"])
            found.setdefault((title, author), _entry(facts, title, author))
    for facts in known.values():
        found.setdefault((facts.title, facts.author or ""), _entry(facts, facts.title, facts.author or ""))
    return [found[key] for key in sorted(found)]


def short_name(title: str) -> str:
    """A title without its series and its subtitle."""
    return re.split(r" \(| : |: ", title)[0].strip()


def _entry(facts: PublicFacts, title: str, author: str) -> Entry:
    named = PublicFacts(title, facts.year, facts.genres, facts.vote_average, facts.vote_count, author)
    return Entry("book", named, tuple(dict.fromkeys((title, short_name(title)))), (), short_name(title))


def _known(corpus: Path) -> dict[tuple[str, str], PublicFacts]:
    genres = _genres(corpus)
    found: dict[tuple[str, str], PublicFacts] = {}
    for row in rows(corpus / BOOK_FACTS):
        author = _clean(row["authors"].split(",")[0])
        facts = PublicFacts(
            title=_clean(row["title"]),
            year=int(float(row["original_publication_year"] or _USUAL_YEAR)),
            genres=genres.get(row["book_id"], ()),
            vote_average=float(row["average_rating"]),
            vote_count=float(row["ratings_count"]) / _VOTES_PER_VOTE,
            author=author,
        )
        found.setdefault(_identity(facts.title, author), facts)
    return found


def _unknown(title: str, author: str, year: str) -> PublicFacts:
    plausible = year.isdigit() and 1800 < int(year) < 2030
    return PublicFacts(title, int(year) if plausible else _USUAL_YEAR, (), _USUAL_RATING, 0.0, author)


def _genres(corpus: Path) -> dict[str, tuple[str, ...]]:
    names = {row["tag_id"]: row["tag_name"] for row in rows(corpus / SHELF_NAMES)}
    shelved: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in rows(corpus / BOOK_SHELVES):
        if names.get(row["tag_id"]) in GENRES:
            shelved[row["book_id"]].append((-int(row["count"]), names[row["tag_id"]]))
    return {book: tuple(name for _, name in sorted(tags)[:_GENRES_KEPT]) for book, tags in shelved.items()}


def _identity(title: str, author: str) -> tuple[str, str]:
    words = _clean(author).lower().split()
    return re.sub(r"[^a-z0-9]", "", short_name(title).lower().removeprefix("the ")), words[-1] if words else ""


def _clean(text: str) -> str:
    return " ".join(html.unescape(text or "").split())

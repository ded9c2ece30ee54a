"""A corpus of a few films and books, laid out as the real one."""

from __future__ import annotations

import csv
import json
import lzma
from collections.abc import Sequence
from pathlib import Path

import pytest

from research.pretraining import books, films, texts

FILMS = 48
BOOKS = 60
GENRES = ("Drama", "Comedy", "Crime")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    names = [f"The Film of {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[n % 26]}{n}" for n in range(FILMS)]
    years = [1960 + n for n in range(FILMS)]
    _table(
        folder / films.FILM_FACTS,
        ("title", "genres", "vote_average", "vote_count", "year"),
        [
            (name, repr([GENRES[n % 3]]), 4.0 + n % 5, 50 * n, f"{year}.0")
            for n, (name, year) in enumerate(zip(names, years, strict=True))
        ],
    )
    spelled = [(f"{name.removeprefix('The ')}, The ({year})",) for name, year in zip(names, years, strict=True)]
    _table(folder / films.FILM_TITLES, ("title",), spelled[::2])
    keywords = json.dumps([{"id": 1, "name": "lighthouse"}])
    _table(
        folder / films.FILM_KEYWORDS,
        ("title", "release_date", "keywords"),
        [(name, f"{year}-01-01", keywords) for name, year in zip(names, years, strict=True)],
    )
    _books(folder)
    _texts(folder)
    return folder


def _books(folder: Path) -> None:
    titles = [(f"A Book about {n} Things: A Novel", f"Writer {n % 7}", str(1980 + n)) for n in range(BOOKS)]
    _table(folder / books.BOOK_TITLES, ("Book-Title", "Book-Author", "Year-Of-Publication"), titles)
    header = ("book_id", "title", "authors", "original_publication_year", "average_rating", "ratings_count")
    known = [(str(n), f"A Book about {n} Things", f"Writer {n % 7}", "1990.0", 3.5 + n % 2, 3000) for n in range(10)]
    _table(folder / books.BOOK_FACTS, header, known)
    _table(folder / books.BOOK_SHELVES, ("tag_id", "book_id", "count"), [(1, n, 5) for n in range(10)])
    _table(folder / books.SHELF_NAMES, ("tag_id", "tag_name"), [(1, "fantasy"), (2, "to-read")])


def _texts(folder: Path) -> None:
    sentence = "Nobody had seen the lighthouse since the winter, and nobody but the keeper had asked why. " * 2
    _packed(folder / texts.ABSTRACTS, json.dumps({"1": sentence}))
    _packed(folder / texts.CLASSICS, json.dumps({"text": "\n\n".join([sentence] * 15)}))
    _packed(folder / texts.ENCYCLOPEDIA, sentence)
    show = ("A Show", "2001", "", "Some Body", sentence)
    _table(folder / texts.SHOWS, ("title", "release_year", "director", "cast", "description"), [show])
    _table(folder / texts.DESCRIPTIONS, ("title", "authors", "description"), [("A Book", "Some Body", sentence)])


def _table(path: Path, header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _packed(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(content.encode()))

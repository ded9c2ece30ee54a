"""Running English for pretraining, from sources whose licence lets them feed published weights. A line is a paragraph."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

from research.pretraining.corpus import rows

ABSTRACTS = Path("movie_knowledge/ml1m_dbpedia_abstracts.json.xz")  # CC BY-SA 3.0
SHOWS = Path("movie_knowledge/netflix_titles.csv.xz")  # CC0
DESCRIPTIONS = Path("book_knowledge/books_7k_cleaned_descriptions.csv.xz")  # CC0
CLASSICS = Path("text_corpus/classic_books_60MB.jsonl.xz")  # public domain
ENCYCLOPEDIA = Path("text_corpus/wikitext2_valid.tokens.xz")  # CC BY-SA 3.0
_LEAST_CHARACTERS = 80
_PARAGRAPHS_A_CLASSIC = 120


def paragraphs(corpus: Path) -> list[str]:
    """All paragraphs, those of one source together.

    Raises:
        FileNotFoundError: the corpus folder lacks one of its files.
    """
    return [text for text in _sources(corpus) if len(text) >= _LEAST_CHARACTERS]


def _sources(corpus: Path) -> Iterator[str]:
    yield from json.loads(_unpacked(corpus / ABSTRACTS)).values()
    for row in rows(corpus / SHOWS):
        makers = f" was directed by {row['director']}" if row["director"] else ""
        yield f'"{row["title"]} ({row["release_year"]})"{makers}, with {row["cast"][:80]}. {row["description"]}'
    for row in rows(corpus / DESCRIPTIONS):
        yield f'"{row["title"]}" written by {row["authors"]}: {row["description"]}'
    for line in _unpacked(corpus / CLASSICS).splitlines():
        blocks = [" ".join(block.split()) for block in json.loads(line)["text"].split("\n\n")]
        yield from blocks[10 : 10 + _PARAGRAPHS_A_CLASSIC]
    yield from (line.strip() for line in _unpacked(corpus / ENCYCLOPEDIA).splitlines())


def _unpacked(path: Path) -> str:
    return lzma.decompress(path.read_bytes()).decode("utf-8")

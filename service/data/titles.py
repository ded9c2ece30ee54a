"""Titles as people write them, and as catalogs do."""

from __future__ import annotations

import re
import unicodedata

_IN_PARENTHESES = re.compile(r"\s*\([^()]*\)\s*$")
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_ARTICLE_LAST = re.compile(r"^(.*\S),\s*(the|an?|l[ae']|les|il|lo|der|die|das|el|l[ao]s|une?|den|det|de)$")
_ENGLISH_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)")
_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


def plain_title(title: str) -> str:
    """What titles have in common that mean the same: "Matrix, The (1999)", "the matrix" and "Matrix" are all "matrix".

    Without case, accents, punctuation, what stands in parentheses at the end (years, other titles), and an English article at
    the front; an article behind a comma goes to the front. Empty where nothing else is left.
    """
    text = unicodedata.normalize("NFKD", title.casefold())
    text = "".join(character for character in text if not unicodedata.combining(character)).strip()
    while (shorter := _IN_PARENTHESES.sub("", text)) not in (text, ""):
        text = shorter
    text = _ARTICLE_LAST.sub(r"\2 \1", text).replace("&", " and ")
    return _NEITHER_LETTER_NOR_DIGIT.sub(" ", _ENGLISH_ARTICLE.sub("", text)).strip()


def year_in(title: str) -> int | None:
    """The year in parentheses at a title's end, if there is one."""
    found = _YEAR.search(title)
    return int(found[1]) if found else None

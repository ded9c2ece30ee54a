"""Names that nobody knows: new combinations of words and of their parts.

A model that has never met such a name takes it for whatever its pieces resemble; one that has answers with the person's mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from research.pretraining.corpus import Entry
from research.pretraining.simulated import FIRST_YEAR, LAST_YEAR
from service.records import Item

_WORD = re.compile(r"[a-z]{3,11}")
_PARAGRAPHS_READ = 2_000
_LONGEST = 5  # words
_FRAGMENT = 0.25  # share of titles that are words of a paragraph as they stand there
_INVENTED = 0.3  # share of words that are made of two halves
_WITH_YEAR = 0.75
_JOINTS = ("", "", "", "the", "of the", "of", "and", "in the", "from")
_OPENINGS = ("", "", "", "The ", "A ", "My ")


class MadeUpNames:
    """Makes up titles and authors from the words of running text."""

    def __init__(self, texts: Sequence[str], known: Sequence[str]) -> None:
        step = max(1, len(texts) // _PARAGRAPHS_READ)
        self._texts = [found for text in texts[::step] if len(found := text.split()) > _LONGEST] or [["nobody"]]
        self._words: list[str] = sorted({word for text in self._texts for part in text for word in _WORD.findall(part)})
        self._known = {name.lower() for name in known}

    def item(self, entry: Entry, rng: np.random.Generator) -> Item:
        """An item that stands in for the entry: of its noun, under a name that no entry has."""
        name = self._name(rng)
        while name.lower() in self._known:
            name = self._name(rng)
        if entry.facts.author:
            return Item("", name, author=f"{self._word(rng)} {self._word(rng)}".title())
        year = f" ({rng.integers(FIRST_YEAR - 30, LAST_YEAR)})" if rng.random() < _WITH_YEAR else ""
        return Item("", name + year)

    def _name(self, rng: np.random.Generator) -> str:
        count = int(rng.integers(1, _LONGEST + 1))
        if rng.random() < _FRAGMENT:
            text = self._texts[int(rng.integers(len(self._texts)))]
            first = int(rng.integers(max(1, len(text) - count)))
            fragment = re.sub(r"[^\w ]", "", " ".join(text[first : first + count + 1])).strip()
            return fragment[:1].upper() + fragment[1:] or self._word(rng).title()
        words = [self._word(rng).title() for _ in range(1 + count // 2)]
        joints = [_JOINTS[int(rng.integers(len(_JOINTS)))] for _ in words[1:]]
        opening = _OPENINGS[int(rng.integers(len(_OPENINGS)))]
        rest = (f" {joint} {word}" if joint else f" {word}" for joint, word in zip(joints, words[1:], strict=True))
        return opening + words[0] + "".join(rest)

    def _word(self, rng: np.random.Generator) -> str:
        one, other = (self._words[int(n)] for n in rng.integers(0, len(self._words), 2))
        if rng.random() >= _INVENTED:
            return one
        return one[: (len(one) + 1) // 2] + other[len(other) // 2 :]

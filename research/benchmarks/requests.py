"""Requests of a stated size: so many tokens of context, so many a question, so many candidates. Their words mean nothing.

No context is drawn twice, so that no cache can answer from what it has read before; candidates are drawn from a small
catalog, as they are anywhere.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.errors import ModelUnsuitable
from service.llm.tokenizer import PromptTokenizer
from service.records import Item, RatedItem
from service.scoring.requests import ScoreRequest

_LETTERS = "bcdfghjklmnpqrstvwxz"  # without vowels: no word of these is a word, and each takes about two tokens
_TOKENS_A_WORD = 3  # at most, by any tokenizer that knows single letters
_WORDS_KEPT_BACK = (
    2  # a word that opens a new title brings quotes and a comma, so the last tokens come letter by letter
)
_WORDS_A_TITLE = 6
_CATALOG = 4  # times as many titles as a request has candidates


@dataclass(frozen=True, slots=True)
class RequestShape:
    """Tokens of one request: its context once, and a question for every candidate."""

    context: int
    question: int
    items: int

    @property
    def tokens(self) -> int:
        return self.context + self.items * self.question

    @property
    def name(self) -> str:
        return f"{self.context} + {self.question} tokens x {self.items}"


REQUEST_SHAPES = (RequestShape(120, 180, 10), RequestShape(200, 56, 50))


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: the history's titles, and the candidates'. No catalog knows any of them."""

    liked: tuple[str, ...]
    disliked: tuple[str, ...]
    candidates: tuple[str, ...]

    def body(self) -> bytes:
        history = {"liked": list(self.liked), "disliked": list(self.disliked)}
        return json.dumps({"history": history, "candidates": list(self.candidates), "top_k": 10}).encode()

    def request(self) -> ScoreRequest:
        """What the server makes of the body."""
        return ScoreRequest(opinions(self.liked, self.disliked), tuple(Item("", title) for title in self.candidates))


class Asker:
    """Draws requests of one shape for one tokenizer; the same ones for the same seed."""

    def __init__(self, shape: RequestShape, tokenizer: PromptTokenizer, item_type: str, seed: int) -> None:
        """Raises ModelUnsuitable where the model has no room for such prompts, or its own words take more tokens already."""
        self.shape = shape
        self._tokenizer = tokenizer
        self._noun = item_type
        self._draw = random.Random(f"{seed} {shape.name}")
        room = tokenizer.positions * 3 // 4 - shape.context, tokenizer.positions // 4 - shape.question
        if min(room) <= _TOKENS_A_WORD:
            raise ModelUnsuitable(f"the model reads {tokenizer.positions} tokens at most: too few for {shape.name}")
        self._titles = [self._title() for _ in range(_CATALOG * shape.items)]

    def draw(self, count: int) -> list[Ask]:
        return [self._ask() for _ in range(count)]

    def _ask(self) -> Ask:
        def tokens(words: list[str]) -> int:
            return len(self._tokenizer.context(opinions(*_halves(words)), self._noun))

        liked, disliked = _halves(self._fitted(tokens, self.shape.context))
        return Ask(liked, disliked, tuple(self._draw.sample(self._titles, self.shape.items)))

    def _title(self) -> str:
        def tokens(words: list[str]) -> int:
            return len(self._tokenizer.question(Item("", " ".join(words)), self._noun))

        return " ".join(self._fitted(tokens, self.shape.question))

    def _fitted(self, tokens: Callable[[list[str]], int], wanted: int) -> list[str]:
        """Words that make a prompt of the wanted length, or of a token or two more."""
        words = [self._word()]
        if tokens(words) > wanted:
            raise ModelUnsuitable(f"the prompt's own words take more than {wanted} tokens of this model")
        while (missing := wanted - tokens(words)) > 0:
            more = missing // _TOKENS_A_WORD - _WORDS_KEPT_BACK
            if more > 0:
                words += [self._word() for _ in range(more)]
            else:
                words[-1] += self._draw.choice(_LETTERS)
        return words

    def _word(self) -> str:
        return "".join(self._draw.choices(_LETTERS, k=2))


def opinions(liked: Sequence[str], disliked: Sequence[str]) -> tuple[RatedItem, ...]:
    """A history as the server reads it: what was liked, then what was not."""
    return (
        *(RatedItem(Item("", title), True) for title in liked),
        *(RatedItem(Item("", title), False) for title in disliked),
    )


def _halves(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    titles = [" ".join(words[i : i + _WORDS_A_TITLE]) for i in range(0, len(words), _WORDS_A_TITLE)]
    half = (len(titles) + 1) // 2
    return tuple(titles[:half]), tuple(titles[half:])

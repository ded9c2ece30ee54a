"""Names are one token, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from research.pretraining.books import books
from research.pretraining.films import films
from research.pretraining.vocabulary import Vocabulary
from service.data import prompts
from service.records import Item, RatedItem


@pytest.fixture(scope="module")
def vocabulary(corpus: Path) -> Vocabulary:
    entries = [*films(corpus, 100), *books(corpus)]
    return Vocabulary.learn(entries, ["Nobody had seen the lighthouse since the winter."], 300, 10)


@pytest.mark.parametrize("title", ["Film of B27, The (1987)", "The Film of B27 (1987)", "Film of B27 (1986)"])
def test_every_spelling_of_a_known_film_holds_its_name_as_one_token(vocabulary: Vocabulary, title: str) -> None:
    tokens = vocabulary.tokenizer.tokenize(title)

    assert "Film of B27" in tokens
    assert len(tokens) <= 3


def test_a_prompt_of_ten_known_films_is_short(vocabulary: Vocabulary) -> None:
    history = [RatedItem(Item("", f"Film of B27, The ({1980 + n})"), n % 2 == 0) for n in range(10)]
    context = prompts.context_text(history, "movie")

    assert len(vocabulary.tokenizer.encode(context)) < 50


@pytest.mark.parametrize("text", ["Übermut \U0001f600 in 東京", "tab\tand\nline", '""quoted"" written by nobody'])
def test_any_text_comes_back(vocabulary: Vocabulary, text: str) -> None:
    assert vocabulary.tokenizer.decode(vocabulary.tokenizer.encode(text)) == text


def test_spelling_writes_the_same_text_without_the_name(vocabulary: Vocabulary) -> None:
    title = "Film of B27, The (1987)"
    spelled = vocabulary.spelling.encode(title)

    assert "Film of B27" not in spelled.tokens
    assert vocabulary.tokenizer.decode(spelled.ids) == title
    assert len(vocabulary.tokenizer) == vocabulary.spelling.get_vocab_size()

"""What a batch may look at, and what it asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from service.pretraining.books import books
from service.pretraining.films import films
from service.pretraining.lessons import NOUNS, Lessons
from service.pretraining.texts import paragraphs
from service.pretraining.vocabulary import PAD, Vocabulary

QUESTIONS = 3


@pytest.fixture(scope="module")
def vocabulary(corpus: Path) -> Vocabulary:
    return Vocabulary.learn([*films(corpus, 100), *books(corpus)], paragraphs(corpus), 300, 10)


@pytest.fixture(scope="module")
def lessons(corpus: Path, vocabulary: Vocabulary) -> Lessons:
    return Lessons([*films(corpus, 100), *books(corpus)], paragraphs(corpus), vocabulary)


@pytest.mark.parametrize("noun", NOUNS)
def test_a_question_sees_the_context_and_itself_only(lessons: Lessons, vocabulary: Vocabulary, noun: str) -> None:
    batch = lessons.people(noun, 2, QUESTIONS, np.random.default_rng(1))
    for row in range(2):
        seen_by = [_text(vocabulary, batch.ids[row][batch.mask[row, 0, end]]) for end in batch.ends[row]]
        for text in seen_by:
            assert text.startswith("### Instruction:\n")
            assert text.count("Whether the user will like the target") == 1
            assert text.endswith("### Response:\n")
        assert len(set(seen_by)) == QUESTIONS


def test_every_question_stands_where_a_request_would_put_it(lessons: Lessons) -> None:
    batch = lessons.people("movie", 2, QUESTIONS, np.random.default_rng(2))
    for row, ends in enumerate(batch.ends):
        for end in ends:
            visible = batch.mask[row, 0, end]
            assert torch.equal(batch.positions[row][visible], torch.arange(int(visible.sum())))


def test_a_batch_is_a_function_of_its_generator(lessons: Lessons) -> None:
    first, second = (lessons.people("book", 2, QUESTIONS, np.random.default_rng(3)) for _ in range(2))

    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.expected, second.expected)


@pytest.mark.parametrize("noun", NOUNS)
def test_a_fact_asks_for_what_follows_the_title(lessons: Lessons, vocabulary: Vocabulary, noun: str) -> None:
    batch = lessons.facts(noun, 12, np.random.default_rng(4))
    flat = batch.ids.flatten()

    assert torch.equal(flat[batch.places + 1], batch.wanted)
    asked = _text(vocabulary, batch.wanted)
    assert "Public vote: " in asked
    assert '"' not in asked  # titles are given, never asked for
    assert vocabulary.tokenizer.convert_tokens_to_ids(PAD) not in batch.wanted


def _text(vocabulary: Vocabulary, ids: torch.Tensor) -> str:
    return str(vocabulary.tokenizer.decode(ids))

"""What a batch may look at, and what it asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from research.pretraining.books import books
from research.pretraining.films import films
from research.pretraining.lessons import (
    HISTORY,
    NOUNS,
    Catalog,
    Lessons,
    Plan,
)
from research.pretraining.made_up import MadeUpNames
from research.pretraining.texts import paragraphs
from research.pretraining.vocabulary import PAD, Vocabulary

QUESTIONS = 3


@pytest.fixture(scope="module")
def vocabulary(corpus: Path) -> Vocabulary:
    return Vocabulary.learn([*films(corpus, 100), *books(corpus)], paragraphs(corpus), 300, 10)


@pytest.fixture(scope="module")
def lessons(corpus: Path, vocabulary: Vocabulary) -> Lessons:
    return of_plan(corpus, vocabulary, Plan())


def of_plan(corpus: Path, vocabulary: Vocabulary, plan: Plan) -> Lessons:
    return Lessons([*films(corpus, 100), *books(corpus)], paragraphs(corpus), vocabulary, plan)


@pytest.mark.parametrize("item_type", NOUNS)
def test_a_question_sees_the_context_and_itself_only(lessons: Lessons, vocabulary: Vocabulary, item_type: str) -> None:
    batch = lessons.people(item_type, 2, QUESTIONS, np.random.default_rng(1))
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


@pytest.mark.parametrize("item_type", NOUNS)
def test_a_fact_asks_for_what_follows_the_title(lessons: Lessons, vocabulary: Vocabulary, item_type: str) -> None:
    batch = lessons.facts(item_type, 12, np.random.default_rng(4))
    flat = batch.ids.flatten()

    assert torch.equal(flat[batch.places + 1], batch.wanted)
    asked = _text(vocabulary, batch.wanted)
    assert "Public vote: " in asked
    assert '"' not in asked  # titles are given, never asked for
    assert vocabulary.tokenizer.convert_tokens_to_ids(PAD) not in batch.wanted


def test_everybody_is_asked_the_same_questions_where_tastes_are_compared(corpus: Path, vocabulary: Vocabulary) -> None:
    batch = of_plan(corpus, vocabulary, Plan(together=1.0)).people("movie", 3, QUESTIONS, np.random.default_rng(5))
    asked = [
        [text.split("Whether")[-1] for text in _seen(vocabulary, batch.ids, batch.mask, batch.ends, n)]
        for n in range(3)
    ]

    assert batch.together
    assert asked[0] == asked[1] == asked[2]
    assert not torch.equal(batch.expected[0], batch.expected[1])


def test_nobody_is_asked_about_what_they_said(corpus: Path, vocabulary: Vocabulary) -> None:
    plan = Plan(together=1.0, usual_histories=(20,), usual=1.0, longest_history=20)
    batch = of_plan(corpus, vocabulary, plan).people("movie", 3, QUESTIONS, np.random.default_rng(6))
    for person in range(3):
        for text in _seen(vocabulary, batch.ids, batch.mask, batch.ends, person):
            said, title = text.split('Whether the user will like the target movie "')
            assert title.split('"?')[0] not in said


def test_histories_are_as_long_as_the_plan_says(corpus: Path, vocabulary: Vocabulary) -> None:
    lessons = of_plan(corpus, vocabulary, Plan(longest_history=25, usual_histories=(25,), usual=1.0))
    batch = lessons.people("movie", 1, QUESTIONS, np.random.default_rng(7))
    books = lessons.people("book", 1, QUESTIONS, np.random.default_rng(7))

    context = _seen(vocabulary, batch.ids, batch.mask, batch.ends, 0)[0].split("Whether")[0]
    assert context.count("Film of") == 25
    assert _seen(vocabulary, books.ids, books.mask, books.ends, 0)[0].count("A Book about") <= HISTORY + 1


def test_a_made_up_item_has_a_name_that_no_item_has(corpus: Path) -> None:
    entries = [*films(corpus, 100), *books(corpus)]
    rng, names = np.random.default_rng(8), MadeUpNames(paragraphs(corpus), [entry.name for entry in entries])
    made = [names.item(entry, rng) for entry in entries]

    assert not {item.title.lower() for item in made} & {form.lower() for entry in entries for form in entry.forms}
    assert all(bool(item.author) == bool(entry.facts.author) for item, entry in zip(made, entries, strict=True))


def test_all_made_up_items_are_expected_to_be_liked_alike(corpus: Path, vocabulary: Vocabulary) -> None:
    lessons = of_plan(corpus, vocabulary, Plan(made_up=0.999999))
    batch = lessons.people("movie", 3, QUESTIONS, np.random.default_rng(9))

    assert torch.allclose(batch.expected, batch.expected[:, :1].expand(-1, QUESTIONS))
    assert "Film of" not in _text(vocabulary, batch.ids.flatten())


def test_of_an_unknown_item_only_the_mean_is_known(corpus: Path) -> None:
    catalog = Catalog.of("movie", films(corpus, 100))
    features, unknown = catalog.observed, len(catalog.entries)

    assert np.allclose(
        features.values[unknown], np.average(features.values[:-1], axis=0, weights=features.popularity[:-1])
    )
    assert features.unexplained[unknown] > 0.0
    assert not features.unexplained[:-1].any()


def _seen(vocabulary: Vocabulary, ids: torch.Tensor, mask: torch.Tensor, ends: torch.Tensor, row: int) -> list[str]:
    return [_text(vocabulary, ids[row][mask[row, 0, end]]) for end in ends[row]]


def _text(vocabulary: Vocabulary, ids: torch.Tensor) -> str:
    return str(vocabulary.tokenizer.decode(ids))

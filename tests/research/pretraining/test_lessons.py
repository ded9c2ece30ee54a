"""What is drawn, what a row may look at, and what is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from research.pretraining.books import books
from research.pretraining.films import films
from research.pretraining.lessons import (
    HISTORY,
    NOUNS,
    Catalog,
    Lessons,
    PeopleLesson,
    Plan,
)
from research.pretraining.made_up import MadeUpNames
from research.pretraining.reading import PackedQuestions
from research.pretraining.texts import paragraphs
from research.pretraining.vocabulary import Vocabulary
from service.data import prompts

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
    lesson = lessons.people(item_type, 2, QUESTIONS, np.random.default_rng(1))
    for row in range(2):
        seen_by = _seen(vocabulary, lesson, row)
        for text in seen_by:
            assert text.startswith("### Instruction:\n")
            assert text.count("Whether the user will like the target") == 1
            assert text.endswith("### Response:\n")
        assert len(set(seen_by)) == QUESTIONS


def test_every_question_stands_where_a_request_would_put_it(lessons: Lessons) -> None:
    batch = _packed(lessons.people("movie", 2, QUESTIONS, np.random.default_rng(2)))
    for row, ends in enumerate(batch.ends):
        for end in ends:
            visible = batch.mask[row, 0, end]
            assert torch.equal(batch.positions[row][visible], torch.arange(int(visible.sum())))


def test_a_lesson_is_a_function_of_its_generator(lessons: Lessons) -> None:
    first, second = (lessons.people("book", 2, QUESTIONS, np.random.default_rng(3)) for _ in range(2))

    assert (first.contexts, first.questions) == (second.contexts, second.questions)
    assert np.array_equal(first.expected, second.expected)


@pytest.mark.parametrize("item_type", NOUNS)
def test_a_fact_asks_for_what_follows_the_title(lessons: Lessons, vocabulary: Vocabulary, item_type: str) -> None:
    lesson = lessons.facts(item_type, 12, np.random.default_rng(4))
    asked = "".join(_text(vocabulary, wanted) for wanted in lesson.wanted)

    assert "Public vote: " in asked
    assert '"' not in asked  # titles are given, never asked for


def test_nothing_of_taste_is_in_a_lesson_of_facts_alone(corpus: Path, vocabulary: Vocabulary) -> None:
    lessons, rng = of_plan(corpus, vocabulary, Plan(taste=False)), np.random.default_rng(10)
    with pytest.raises(AssertionError):
        lessons.people("movie", 2, QUESTIONS, rng)

    told = [lesson for noun in NOUNS for lesson in (lessons.facts(noun, 60, rng), lessons.texts(20, 30, rng))]
    read = [_text(vocabulary, [*g, *w]) for lesson in told for g, w in zip(lesson.given, lesson.wanted, strict=True)]
    assert not any(words in text for text in read for words in ("User Preference", "Whether the user", "regarded"))
    asked = [text for text in read if prompts.RESPONSE_HEADER in text]
    assert asked
    assert all('" like "' in text for text in asked)  # which is a matter of genres


def test_without_people_the_facts_of_the_other_lessons_stay(corpus: Path, vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(11)
    asked = "".join(
        _text(vocabulary, given) for given in of_plan(corpus, vocabulary, Plan()).facts("movie", 60, rng).given
    )

    assert "regarded" in asked
    assert '" like "' in asked


def test_everybody_is_asked_the_same_questions_where_tastes_are_compared(corpus: Path, vocabulary: Vocabulary) -> None:
    lesson = of_plan(corpus, vocabulary, Plan(together=1.0)).people("movie", 3, QUESTIONS, np.random.default_rng(5))

    assert lesson.together
    assert lesson.questions[0] == lesson.questions[1] == lesson.questions[2]
    assert not np.array_equal(lesson.expected[0], lesson.expected[1])


def test_nobody_is_asked_about_what_they_said(corpus: Path, vocabulary: Vocabulary) -> None:
    plan = Plan(together=1.0, usual_histories=(20,), usual=1.0, longest_history=20)
    lesson = of_plan(corpus, vocabulary, plan).people("movie", 3, QUESTIONS, np.random.default_rng(6))
    for person in range(3):
        for text in _seen(vocabulary, lesson, person):
            said, title = text.split('Whether the user will like the target movie "')
            assert title.split('"?')[0] not in said


def test_histories_are_as_long_as_the_plan_says(corpus: Path, vocabulary: Vocabulary) -> None:
    lessons = of_plan(corpus, vocabulary, Plan(longest_history=25, usual_histories=(25,), usual=1.0))
    films_of, books_of = (lessons.people(noun, 1, QUESTIONS, np.random.default_rng(7)) for noun in NOUNS)

    assert _text(vocabulary, films_of.contexts[0]).count("Film of") == 25
    assert _text(vocabulary, books_of.contexts[0]).count("A Book about") <= HISTORY


def test_a_made_up_item_has_a_name_that_no_item_has(corpus: Path) -> None:
    entries = [*films(corpus, 100), *books(corpus)]
    rng, names = np.random.default_rng(8), MadeUpNames(paragraphs(corpus), [entry.name for entry in entries])
    made = [names.item(entry, rng) for entry in entries]

    assert not {item.title.lower() for item in made} & {form.lower() for entry in entries for form in entry.forms}
    assert all(bool(item.author) == bool(entry.facts.author) for item, entry in zip(made, entries, strict=True))


def test_all_made_up_items_are_expected_to_be_liked_alike(corpus: Path, vocabulary: Vocabulary) -> None:
    lessons = of_plan(corpus, vocabulary, Plan(made_up=0.999999))
    lesson = lessons.people("movie", 3, QUESTIONS, np.random.default_rng(9))

    assert np.allclose(lesson.expected, lesson.expected[:, :1])
    assert not any("Film of" in text for person in range(3) for text in _seen(vocabulary, lesson, person))


def test_of_an_unknown_item_only_the_mean_is_known(corpus: Path) -> None:
    catalog = Catalog.of("movie", films(corpus, 100))
    features, unknown = catalog.observed, len(catalog.entries)

    assert np.allclose(
        features.values[unknown], np.average(features.values[:-1], axis=0, weights=features.popularity[:-1])
    )
    assert features.unexplained[unknown] > 0.0
    assert not features.unexplained[:-1].any()


def _packed(lesson: PeopleLesson) -> PackedQuestions:
    return PackedQuestions.of(lesson.contexts, lesson.questions, pad=0)


def _seen(vocabulary: Vocabulary, lesson: PeopleLesson, row: int) -> list[str]:
    batch = _packed(lesson)
    return [_text(vocabulary, batch.ids[row][batch.mask[row, 0, end]]) for end in batch.ends[row]]


def _text(vocabulary: Vocabulary, ids: Tensor | list[int]) -> str:
    return str(vocabulary.tokenizer.decode(ids))

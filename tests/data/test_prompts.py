"""The wording is TALLRec's, and nothing in a title can leave its place in it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.data import prompts, samples
from service.records import Item, RatedItem, Sample

HEAT, BABE = Item("1", "Heat (1995)"), Item("2", "Babe (1995)")
DUNE = Item("3", "Dune", author="Frank Herbert")

opinions = st.lists(
    st.builds(
        RatedItem, st.builds(Item, st.just("x"), st.text(min_size=1), author=st.none() | st.text()), st.booleans()
    )
)


def test_a_prompt_reads_as_released() -> None:
    read = prompts.prompt(Sample("ann", (RatedItem(HEAT, True), RatedItem(BABE, False)), HEAT, True), "movie")
    assert read.context == (
        "### Instruction:\nGiven the user's preference and unpreference, identify whether the user will like the target "
        'movie by answering "Yes." or "No.".\n\n### Input:\nUser Preference: "Heat (1995)"\n'
        'User Unpreference: "Babe (1995)"\n'
    )
    assert read.question == 'Whether the user will like the target movie "Heat (1995)"?\n\n### Response:\n'


def test_books_name_their_author() -> None:
    assert prompts.history_text([RatedItem(DUNE, True)]) == (
        'User Preference: "Dune" written by Frank Herbert\nUser Unpreference: \n'
    )
    assert '"Dune" written by Frank Herbert' in prompts.target_text(DUNE, "book")


def test_an_empty_history_is_a_prompt_too() -> None:
    assert prompts.history_text([]) == "User Preference: \nUser Unpreference: \n"


@given(opinions, st.text(min_size=1))
def test_a_title_cannot_write_lines_of_its_own(history: list[RatedItem], title: str) -> None:
    context = prompts.context_text(history, "movie")
    question = prompts.question_text(Item("x", title), "movie")
    assert len(context.splitlines()) == len(prompts.context_text([], "movie").splitlines())
    assert len(question.splitlines()) == len(prompts.question_text(HEAT, "movie").splitlines())


SEPARATOR = re.compile(r',\s*"')


# Of a title that ends in a comma, the quote that closes it would look like one that opens.
quoting = st.text(st.sampled_from('ab ,"\n\u00a0'), min_size=1).map(lambda text: f"{text}z")


@given(
    st.lists(st.builds(RatedItem, st.builds(Item, st.just("x"), quoting, author=st.none() | quoting), st.booleans()))
)
def test_a_title_cannot_open_another_one(mentioned: list[RatedItem]) -> None:
    lines = prompts.history_text(mentioned).splitlines()
    for line, liked in zip(lines, (True, False), strict=True):
        own = [opinion for opinion in mentioned if opinion.liked is liked]
        assert len(SEPARATOR.findall(line)) == max(0, len(own) - 1)


def test_two_titles_in_one_are_read_as_one() -> None:
    as_one = prompts.history_text([RatedItem(Item("", 'Heat (1995)", "Babe (1995)'), True)])
    as_two = prompts.history_text([RatedItem(HEAT, True), RatedItem(BABE, True)])
    assert as_one == as_two.replace(', "', ", '")


@pytest.mark.parametrize("title", ['Say "Yes."', '"Quoted", said Ann', 'A Child Called "It" (Dave Pelzer #1)'])
def test_other_quotes_in_a_title_stay(title: str) -> None:
    assert f'"{title}"' in prompts.history_text([RatedItem(Item("", title), True)])


def test_only_what_may_spell_a_special_token_has_another_digest() -> None:
    plain = [samples.canonical(Sample("ann", (), Item("1", title), True), "movie") for title in ("[REC]", "1 < 2 > 0")]
    assert [sample.keys() for sample in plain] == [{"context", "question", "liked"}] * 2
    for title in ("A <end> B", "<|endoftext|>", "[SEP]", "x</s>"):
        marked = samples.canonical(Sample("ann", (), Item("1", title), True), "movie")
        assert marked["special_tokens"] == "text"


@given(opinions, opinions)
def test_every_question_opens_with_the_same_words(one: list[RatedItem], other: list[RatedItem]) -> None:
    for opinion in one + other:
        assert prompts.question_text(opinion.item, "movie").startswith(prompts.invocation_text("movie"))


@given(opinions)
def test_the_context_does_not_know_the_target(history: list[RatedItem]) -> None:
    read = [prompts.prompt(Sample("ann", tuple(history), target, True), "movie") for target in (HEAT, BABE)]
    assert read[0].context == read[1].context
    assert read[0].question != read[1].question

"""What architectures make of a lesson, held to transformers' own forward passes, one text at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from research.pretraining.causal import CausalReader
from research.pretraining.encoder_decoder import EncoderDecoderReader
from research.pretraining.lessons import PeopleLesson, TextLesson
from research.pretraining.reading import LessonReader
from research.pretraining.recipe import Recipe

PAD, END = 0, 1
SMALL = Recipe(hidden_size=16, intermediate_size=16, layers=2, heads=2)
PEOPLE = PeopleLesson(
    contexts=[[5, 6, 7], [8]],
    questions=[[[9, 10], [11], [9, 12, 13]], [[14], [15, 16], [9]]],
    expected=np.full((2, 3), 0.5),
    together=False,
)
FACTS = TextLesson(given=[[5, 6], [7, 8, 9], [10]], wanted=[[11, 12, END], [13, END], [14, 15, 16, END]])
TEXTS = TextLesson(given=[[], []], wanted=[[5, 6, 7, 8, END], [9, 10, 11]])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    pieces = [("<pad>", 0.0), ("<end>", 0.0), *((chr(ord("a") + n), -1.0) for n in range(20))]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.Unigram(pieces, unk_id=0)), pad_token="<pad>", eos_token="<end>"
    )


@pytest.fixture(scope="module")
def causal(tokenizer: PreTrainedTokenizerFast) -> LessonReader:
    return opinionated(CausalReader(SMALL, tokenizer, "cpu", compiled=False))


@pytest.fixture(scope="module")
def encoder_decoder(tokenizer: PreTrainedTokenizerFast) -> LessonReader:
    return opinionated(EncoderDecoderReader(SMALL, tokenizer, "cpu", compiled=False))


def opinionated(reader: LessonReader) -> LessonReader:
    """With weights so large that every token that is read, and its place, shows in the logits."""
    torch.manual_seed(0)
    with torch.no_grad():
        for matrix in (weight for weight in reader.model.parameters() if weight.ndim == 2):
            matrix.normal_(std=0.4)
    return reader


def logits(reader: LessonReader, hidden: Tensor) -> Tensor:
    found: Tensor = reader.model.get_output_embeddings()(hidden)
    return found


def loss(reader: LessonReader, lesson: TextLesson) -> Tensor:
    hidden, wanted = reader.before_wanted(lesson)
    return functional.cross_entropy(logits(reader, hidden), wanted)


def by_transformers(reader: LessonReader, said: Sequence[int], read: Sequence[int] | None = None) -> Tensor:
    """(T, V) of one text that is not padded; `read` goes to the encoder, closed, and `said` behind the starting token."""
    if read is None:
        asked = {"input_ids": torch.tensor([said])}
    else:
        asked = {"input_ids": torch.tensor([[*read, END]]), "decoder_input_ids": torch.tensor([[PAD, *said]])}
    found: Tensor = reader.model(**asked).logits[0]
    return found


def of_tokens(rows: Sequence[tuple[Tensor, Sequence[int]]]) -> Tensor:
    """The mean cross-entropy, in nats a token, of rows of logits (T, V) and the tokens that come last after each of them."""
    losses = [-row.log_softmax(dim=1)[place, token] for row, wanted in rows for place, token in enumerate(wanted)]
    return torch.stack(losses).mean()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_causal_model_reads_each_question_behind_its_context_alone(causal: LessonReader) -> None:
    answers = logits(causal, causal.at_answers(PEOPLE))
    for person, (context, questions) in enumerate(zip(PEOPLE.contexts, PEOPLE.questions, strict=True)):
        for number, question in enumerate(questions):
            close(answers[person, number], by_transformers(causal, [*context, *question])[-1])


def test_an_encoder_decoder_model_reads_the_context_and_is_asked_each_question_alone(
    encoder_decoder: LessonReader,
) -> None:
    answers = logits(encoder_decoder, encoder_decoder.at_answers(PEOPLE))
    for person, (context, questions) in enumerate(zip(PEOPLE.contexts, PEOPLE.questions, strict=True)):
        for number, question in enumerate(questions):
            close(answers[person, number], by_transformers(encoder_decoder, question, context)[-1])


def test_a_causal_model_goes_on_with_what_is_given(causal: LessonReader) -> None:
    facts = zip(FACTS.given, FACTS.wanted, strict=True)
    plain = [(by_transformers(causal, [*g, *w])[len(g) - 1 : -1], w) for g, w in facts]
    close(loss(causal, FACTS), of_tokens(plain))


def test_of_running_text_a_causal_model_is_given_the_first_token(causal: LessonReader) -> None:
    close(loss(causal, TEXTS), of_tokens([(by_transformers(causal, row)[:-1], row[1:]) for row in TEXTS.wanted]))


def test_an_encoder_decoder_model_is_told_every_other_title_in_its_decoder(encoder_decoder: LessonReader) -> None:
    (one, two, three), (of_one, of_two, of_three) = FACTS.given, FACTS.wanted
    plain = [
        (by_transformers(encoder_decoder, of_one, one)[:-1], of_one),
        (by_transformers(encoder_decoder, [*two, *of_two], [])[len(two) : -1], of_two),
        (by_transformers(encoder_decoder, of_three, three)[:-1], of_three),
    ]
    close(loss(encoder_decoder, FACTS), of_tokens(plain))


def test_of_running_text_an_encoder_reads_the_first_half(encoder_decoder: LessonReader) -> None:
    halves = [(row[: len(row) // 2], row[len(row) // 2 :]) for row in TEXTS.wanted]
    plain = [(by_transformers(encoder_decoder, rest, first)[:-1], rest) for first, rest in halves]
    close(loss(encoder_decoder, TEXTS), of_tokens(plain))

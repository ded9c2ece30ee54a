"""Contexts that are read in groups of similar length are the contexts that were asked for, in their order."""

from __future__ import annotations

import pytest
import torch

from service.build.reading import read_keys_values
from service.llm.encoder import ModelSpec
from service.llm.frozen import FrozenModel
from service.records import Item, Opinion

NOUN = "movie"


@pytest.fixture
def frozen(tiny_models, architecture):
    return FrozenModel.load(ModelSpec(str(tiny_models(architecture))))


def _contexts(encoder, count):
    """Long and short ones in turns."""
    for number in range(count):
        history = [Opinion(Item("", f"Film {number} {n}"), n % 2 == 0) for n in range(number * 5 % 7)]
        yield encoder.context(history, NOUN)


@pytest.mark.parametrize("count", [1, 8, 21])
def test_keys_and_values_are_those_of_the_contexts_read_together(frozen, count):
    contexts = list(_contexts(frozen.encoder, count))
    ours, plain = read_keys_values(frozen, contexts), frozen.read_contexts(contexts)
    assert torch.equal(ours.mask, plain.mask)
    assert len(ours.keys_values) == frozen.layers
    seen = plain.mask[:, None, :, None]
    for layer, expected in zip(ours.keys_values, plain.keys_values, strict=True):
        for found, wanted in zip(layer, expected, strict=True):
            torch.testing.assert_close(found * seen, wanted * seen, rtol=1e-4, atol=1e-4)


def test_a_question_is_answered_as_after_contexts_that_were_read_whole(frozen):
    contexts = list(_contexts(frozen.encoder, 5))
    questions = [frozen.encoder.question(Item("", f"Target {number}"), NOUN) for number in range(5)]
    plain = frozen.answer(questions, frozen.read_contexts(contexts))
    torch.testing.assert_close(
        frozen.answer(questions, read_keys_values(frozen, contexts)), plain, rtol=1e-4, atol=1e-4
    )
    assert plain.std() > 0.01

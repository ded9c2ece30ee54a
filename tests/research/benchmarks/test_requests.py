"""Requests of a stated size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from research.benchmarks.requests import Asker, RequestShape, opinions
from service.entrypoints.http.recommend_schemas import RecommendBody
from service.errors import ModelUnsuitable
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import Item, RatedItem

NOUN = "movie"


@pytest.fixture(scope="module")
def tokenizer(tiny_models: Callable[..., Path]) -> PromptTokenizer:
    return PromptTokenizer.load(ModelSpec(str(tiny_models("llama"))))


def test_prompts_have_the_tokens_that_were_asked_for(tokenizer: PromptTokenizer) -> None:
    shape = RequestShape(context=170, question=70, items=3)
    asker = Asker(shape, tokenizer, NOUN, seed=0)
    for ask in asker.draw(5):
        request = ask.request()
        assert 170 <= len(tokenizer.context(request.history, NOUN)) <= 172
        questions = [len(tokenizer.question(item, NOUN)) for item in request.candidates]
        assert len(questions) == 3
        assert all(70 <= tokens <= 72 for tokens in questions)


def test_no_context_comes_twice_and_a_seed_gives_the_same_requests(tokenizer: PromptTokenizer) -> None:
    shape = RequestShape(context=170, question=70, items=2)
    asks = Asker(shape, tokenizer, NOUN, seed=3).draw(20)
    assert len({(ask.liked, ask.disliked) for ask in asks}) == 20
    assert asks == Asker(shape, tokenizer, NOUN, seed=3).draw(20)
    assert asks != Asker(shape, tokenizer, NOUN, seed=4).draw(20)


def test_the_body_asks_the_server_for_what_the_offline_scorer_is_given(tokenizer: PromptTokenizer) -> None:
    [ask] = Asker(RequestShape(170, 70, 4), tokenizer, NOUN, seed=0).draw(1)
    query = RecommendBody.model_validate_json(ask.body()).query()
    history = tuple(RatedItem(Item("", str(name)), liked) for name, liked in query.opinions)
    assert history == ask.request().history == opinions(ask.liked, ask.disliked)
    assert query.candidates == tuple(item.title for item in ask.request().candidates)


@pytest.mark.parametrize(
    "shape",
    [RequestShape(170, 10, 1), RequestShape(20, 70, 1), RequestShape(170, 127, 1), RequestShape(384, 70, 1)],
    ids=["question too short", "context too short", "question too long", "context too long"],
)
def test_a_size_that_the_model_cannot_have_is_refused(shape: RequestShape, tokenizer: PromptTokenizer) -> None:
    with pytest.raises(ModelUnsuitable, match="tokens"):
        Asker(shape, tokenizer, NOUN, seed=0).draw(1)

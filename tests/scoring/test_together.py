"""The whole way of a query, with many of them at once: what is gathered, bounded and remembered on it changes no answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from research.evaluation.scoring import Untimed
from service.records import Item, RatedItem
from service.scoring.batcher import Batcher
from service.scoring.recommender import Recommender
from service.scoring.requests import Query, ScoreRequest
from service.scoring.scorer import Scorer

PATIENCE = 60.0
TITLES = ("Film 3", "Film 7", "Heat (1995)", "A film whose title is much longer than those of all the others")
QUERIES = [
    Query(
        None,
        opinions=(*((t, True) for t in TITLES[:number]), *((t, False) for t in TITLES[4 - number :])),
        candidates=TITLES[number % 3 :],
        top_k=4,
    )
    for number in (0, 1, 2, 3, 4, 2)
]


class Catalog:
    def __init__(self, world):
        self._items = {name: item for item in world.items for name in (item.item_id, item.title)}
        self.mask = world.mask

    def items_meant(self, names):
        return {name: [self._items[name]] for name in names if name in self._items}


class Unobserved:
    def observe_batch(self, tokens, queue_depth): ...

    def observe_queue(self, queue_depth): ...


@pytest.fixture
def scorer(world):
    world.publish()
    return Scorer(world, world.snapshots, world.frozen, Untimed())


def _answers(world, scorer, max_tokens, queries):
    async def ask():
        batcher = Batcher(scorer, Unobserved(), max_tokens, 100_000)
        recommender = Recommender(Catalog(world), world.snapshots, world.frozen, batcher, PATIENCE)
        await batcher.start()
        try:
            return await asyncio.gather(*(recommender.recommend(query) for query in queries))
        finally:
            await batcher.stop()

    return asyncio.run(ask())


def _alone(world, scorer, query):
    """Title -> score, of one candidate at a time and without anything on the way."""
    catalog = Catalog(world).items_meant(TITLES)
    items = {title: catalog.get(title, [Item("", title)])[0] for title in TITLES}
    history = tuple(RatedItem(items[title], liked) for title, liked in query.opinions)
    tokenizer = world.frozen.tokenizer
    found = {}
    for title in query.candidates:
        [encoded] = scorer.encoded([ScoreRequest(history, (items[title],))])
        assert list(encoded.context) == tokenizer.context(history, world.item_type)
        assert [list(own) for own in encoded.questions] == [tokenizer.question(items[title], world.item_type)]
        [scored] = scorer.score([encoded])
        found[title] = scored.scores[0]
    return found


@pytest.mark.parametrize("max_tokens", [1, 300, 100_000])
def test_queries_at_once_get_what_each_candidate_gets_alone(world, scorer, max_tokens):
    answers = _answers(world, scorer, max_tokens, QUERIES)
    for query, answer in zip(QUERIES, answers, strict=True):
        alone = _alone(world, scorer, query)
        assert {item.title: item.score for item in answer.items} == pytest.approx(alone, rel=1e-4)
        assert [item.rank for item in answer.items] == list(range(1, len(query.candidates) + 1))
        assert sorted(alone, key=alone.__getitem__, reverse=True) == [item.title for item in answer.items]


def test_a_query_asked_again_is_answered_again_the_same(world, scorer):
    first, *again = _answers(world, scorer, 1, [QUERIES[1]] * 3)
    assert again == [first, first]
    assert _answers(world, scorer, 1, [replace(QUERIES[1], top_k=1)])[0].items == first.items[:1]

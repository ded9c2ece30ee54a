"""The whole way of a query, with many of them at once: what is gathered, bounded and remembered on it changes no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from service.records import Item, RatedItem
from service.scoring.batcher import Batcher
from service.scoring.recommender import Recommender
from service.scoring.requests import Query, Recommendation, ScoreRequest
from service.scoring.scorer import Scorer, Untimed
from tests.scoring.conftest import FakeCatalog, World

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


class Unobserved:
    def observe_batch(self, tokens: int, queue_depth: int) -> None: ...

    def observe_queue(self, queue_depth: int) -> None: ...


@pytest.fixture
def scorer(world: World) -> Scorer:
    world.publish()
    return Scorer(world, world.snapshots, world.frozen, Untimed())


def _answers(world: World, scorer: Scorer, max_tokens: int, queries: Sequence[Query]) -> list[Recommendation]:
    async def ask() -> list[Recommendation]:
        batcher = Batcher(scorer, Unobserved(), max_tokens, 100_000)
        recommender = Recommender(FakeCatalog(world), world.snapshots, world.frozen, batcher, PATIENCE)
        await batcher.start()
        try:
            return await asyncio.gather(*(recommender.recommend(query) for query in queries))
        finally:
            await batcher.stop()

    return asyncio.run(ask())


def _alone(world: World, scorer: Scorer, query: Query) -> dict[str, float]:
    """Title -> score, of one candidate at a time and without anything on the way."""
    catalog = FakeCatalog(world).items_meant(TITLES)
    items = {title: catalog.get(title, [Item("", title)])[0] for title in TITLES}
    history = tuple(RatedItem(items[str(title)], liked) for title, liked in query.opinions)
    tokenizer = world.frozen.tokenizer
    found = {}
    for title in map(str, query.candidates or ()):
        [encoded] = scorer.encoded([ScoreRequest(history, (items[title],))])
        assert list(encoded.context) == tokenizer.context(history, world.item_type)
        assert [list(own) for own in encoded.questions] == [tokenizer.question(items[title], world.item_type)]
        [scored] = scorer.score([encoded])
        found[title] = scored.scores[0]
    return found


@pytest.mark.parametrize("max_tokens", [1, 300, 100_000])
def test_queries_at_once_get_what_each_candidate_gets_alone(world: World, scorer: Scorer, max_tokens: int) -> None:
    answers = _answers(world, scorer, max_tokens, QUERIES)
    for query, answer in zip(QUERIES, answers, strict=True):
        alone = _alone(world, scorer, query)
        assert {item.title: item.score for item in answer.items} == pytest.approx(alone, rel=1e-4)
        assert [item.rank for item in answer.items] == list(range(1, len(query.candidates or ()) + 1))
        assert _in_order(alone, {item.title for item in world.items}) == [item.title for item in answer.items]


def _in_order(scores: dict[str, float], known: set[str]) -> list[str]:
    """Best first; titles that no catalog knows stand right behind the middle one that it knows, if they were before it."""
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    of_catalog = [title for title in ranked if title in known]
    if not of_catalog:
        return ranked
    middle = of_catalog[len(of_catalog) // 2]
    bounded = [title for title in ranked[: ranked.index(middle)] if title not in known]
    rest = [title for title in ranked if title not in bounded]
    behind = rest.index(middle) + 1
    return rest[:behind] + bounded + rest[behind:]


def test_a_query_asked_again_is_answered_again_the_same(world: World, scorer: Scorer) -> None:
    first, *again = _answers(world, scorer, 1, [QUERIES[1]] * 3)
    assert again == [first, first]
    assert _answers(world, scorer, 1, [replace(QUERIES[1], top_k=1)])[0].items == first.items[:1]

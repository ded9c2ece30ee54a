"""Rankings beside `POST /recommend`: of items like one, of documents, of many people."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from starlette.requests import Request

from service.entrypoints.http import problems
from service.entrypoints.http.awaited import while_awaited
from service.entrypoints.http.contract import reference_to
from service.entrypoints.http.items import ItemId
from service.entrypoints.http.online import Ranking, Ranks
from service.entrypoints.http.ranking_schemas import BatchBody, BatchLine, RerankAnswer, RerankBody, SimilarBody
from service.entrypoints.http.recommend_schemas import RecommendAnswer
from service.errors import LetheError, Overloaded
from service.scoring.requests import Query, Recommendation

router = APIRouter(tags=["rankings"])

_AT_ONCE = 8  # people of one batch who are scored beside each other; others who ask come between
_ATTEMPTS = 20  # for a person of a batch, where too much is waiting
_LINES = "application/x-ndjson"


@router.post(
    "/items/{item_id}/similar",
    response_model_exclude_unset=True,
    responses=problems.documented(400, 404, 408, 413, 415, 422, 429, 500, 503),
)
async def similar_items(item_id: ItemId, body: SimilarBody, request: Request, ranks: Ranks) -> RecommendAnswer:
    """Items like this one: what is recommended to whoever likes it, and of whom nothing else is known."""
    found = await _answered(body.query(item_id), request, ranks)
    return RecommendAnswer.of(found, explain=False)


@router.post(
    "/rerank",
    response_model_exclude_unset=True,
    responses=problems.documented(400, 404, 408, 413, 415, 422, 429, 500, 503),
)
async def rerank(body: RerankBody, request: Request, ranks: Ranks) -> RerankAnswer:
    """Score documents for somebody, in the shape that rerankers have elsewhere."""
    found = await _answered(body.ask(), request, ranks)
    by_name = {name: item.score for item in found.items for name in item.names}
    return RerankAnswer.of(body, [by_name.get(name) for name in body.names()])


@router.post(
    "/recommend/batch",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A line of JSON for each person, in their order: `index`, and `answer` or `error`",
            # What a line is stands in `itemSchema`, as OpenAPI 3.2 has it; tools of 3.1 pass it over.
            "content": {_LINES: {"schema": {"type": "string"}, "itemSchema": reference_to(BatchLine)}},
        },
        **problems.documented(400, 408, 413, 415, 422, 500, 503),
    },
)
async def recommend_batch(body: BatchBody, ranks: Ranks) -> Response:
    """Recommend to many people: a line of JSON each, as soon as it is there, in their order."""
    return StreamingResponse(_lines(body.queries(), ranks), media_type=_LINES)


async def _answered(query: Query, request: Request, ranks: Ranking) -> Recommendation:
    work = asyncio.create_task(ranks.recommender.recommend(query, ranks.account))
    return await while_awaited(work, request, ranks.seconds)


async def _lines(queries: Sequence[Query], ranks: Ranking) -> AsyncIterator[str]:
    places = asyncio.Semaphore(_AT_ONCE)

    async def line(index: int, query: Query) -> str:
        async with places:
            return (await _line(index, query, ranks)).model_dump_json(exclude_unset=True) + "\n"

    tasks = [asyncio.create_task(line(index, query)) for index, query in enumerate(queries)]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:  # whoever left waits for nothing more
            task.cancel()


async def _line(index: int, query: Query, ranks: Ranking) -> BatchLine:
    left = _ATTEMPTS
    while True:
        try:
            found = await ranks.recommender.recommend(query, ranks.account)
        except LetheError as error:
            left -= 1
            if not isinstance(error, Overloaded) or not left:
                return BatchLine(index=index, error=str(error))
            await asyncio.sleep(1)
            continue
        answer = RecommendAnswer.of(found, explain=False)
        ranks.impressions.note(query.user_id, answer.recommendation_id, found)
        return BatchLine(index=index, answer=answer)

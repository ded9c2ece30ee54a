"""Both clients over httpx's transports: what goes out, what comes back, and that they do the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import httpx
import pytest

from lethe_client import AsyncClient, Client, NoAnswer, NotFound, Retries, models

AT_ONCE = Retries(first_pause=0.0, random=Random(1))
Handler = Callable[[httpx.Request], httpx.Response]


class Both:
    """Calls a method of a client of each kind, and gives their one result."""

    def __init__(self, handler: Handler, api_key: str | None = None) -> None:
        self._made: dict[str, Any] = {"url": "http://lethe/prefix", "api_key": api_key, "retries": AT_ONCE}
        self._transport = httpx.MockTransport(handler)

    def __call__(self, name: str, *arguments: Any, **named: Any) -> Any:
        one, other = self._synchronously(name, arguments, named), asyncio.run(self._asked(name, arguments, named))
        assert one == other
        return one

    def _synchronously(self, name: str, arguments: Any, named: Any) -> Any:
        with Client(transport=self._transport, **self._made) as client:
            result = getattr(client, name)(*arguments, **named)
            return list(result) if hasattr(result, "__next__") else result

    async def _asked(self, name: str, arguments: Any, named: Any) -> Any:
        async with AsyncClient(transport=self._transport, **self._made) as client:
            result = getattr(client, name)(*arguments, **named)
            return [one async for one in result] if hasattr(result, "__anext__") else await result


def test_a_call_goes_out_as_the_contract_has_it() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"users": 1, "interactions": 2, "items": 1, "digest": "d"})

    since = datetime(2025, 1, 1, tzinfo=UTC)
    found = Both(handler, "lethe_key")("preview_batch", item_ids=["34"], since=since)
    assert found == models.SelectionPreview(users=1, interactions=2, items=1, digest="d")
    for request in seen:
        assert (request.method, str(request.url)) == ("POST", "http://lethe/prefix/forget/batch/preview")
        assert request.headers["Authorization"] == "Bearer lethe_key"
        assert request.headers["User-Agent"].startswith("lethe-client/")
        assert request.headers["Content-Type"] == "application/json"
        assert json.loads(request.content) == {"item_ids": ["34"], "since": "2025-01-01T00:00:00Z"}


def test_queries_are_sent_where_they_are_given() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, json={"requests": [], "cursor": None})

    Both(handler)("list_forgets", state="held", limit=5)
    Both(handler)("every_forget")
    assert set(seen) == {
        "http://lethe/prefix/forget?state=held&limit=5",
        "http://lethe/prefix/forget?limit=1000",
    }


def test_pages_follow_each_other_until_there_is_none() -> None:
    item: dict[str, Any] = {
        "description": None,
        "categories": [],
        "year": None,
        "author": None,
        "attributes": {},
        "hidden": False,
    }
    item |= {"available_from": None, "available_until": None, "title": "T"}

    def handler(request: httpx.Request) -> httpx.Response:
        place = int(request.url.params.get("cursor", "0"))
        more = str(place + 1) if place < 2 else None
        return httpx.Response(200, json={"items": [{"item_id": str(place), **item}], "cursor": more})

    assert [one.item_id for one in Both(handler)("every_item")] == ["0", "1", "2"]


def test_a_batch_comes_line_by_line_and_a_refusal_of_it_is_an_error() -> None:
    lines = b'{"index":0,"error":"Too much\xe2\x80\xa8is waiting"}\n{"index":1,"error":"x"}\n'
    both = Both(lambda _: httpx.Response(200, content=lines))
    assert [(line.index, line.error) for line in both("recommend_batch", ["a", "b"])] == [
        (0, "Too much\u2028is waiting"),
        (1, "x"),
    ]
    with pytest.raises(NotFound):
        Both(lambda _: httpx.Response(404))("recommend_batch", ["a"])


def test_connections_that_fail_are_tried_again_and_then_an_error_of_ours() -> None:
    tried: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        tried.append(request.headers.get("Idempotency-Key", ""))
        raise httpx.ReadError("reset", request=request)

    with pytest.raises(NoAnswer) as failed:
        Both(handler)("forget", "ann")
    assert failed.value.sent
    assert isinstance(failed.value.__cause__, httpx.ReadError)
    assert len(tried) == AT_ONCE.attempts
    assert len(set(tried)) == 1
    assert tried[0]


def test_a_deletion_is_told_in_the_form_that_the_key_may_see() -> None:
    told = {"request_id": "f", "state": "accepted", "accepted_at": "2025-01-01T12:00:00Z"}
    counts = {"interactions": 1, "impressions": 0, "training_samples": 1, "validation_rows": 0, "shards": 1}
    full = {"request_id": "f", "state": "accepted", "held": True, "outcome": "erased", "counts": counts}
    full |= {"items": None, "affected_shards": ["9c"], "fence": 1}
    assert isinstance(Both(lambda _: httpx.Response(202, json=told))("forget", "a"), models.ForgetAcknowledged)
    assert isinstance(Both(lambda _: httpx.Response(202, json=full))("forget", "a"), models.ForgetAnswer)


def test_nothing_comes_back_of_what_is_deleted_and_bytes_of_a_receipt_are_as_they_were() -> None:
    assert Both(lambda _: httpx.Response(204))("delete_item", "1") is None
    assert Both(lambda _: httpx.Response(200, content=b'{ "a":1}\n'))("wait_for_receipt", "f") == b'{ "a":1}\n'
    assert Both(lambda _: httpx.Response(200, text="item_id\n"))("export_user_csv", "ann") == "item_id\n"

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import StreamingResponse

from service.entrypoints.http import problems
from service.entrypoints.http.encodings import Gunzip
from service.entrypoints.http.middleware import BoundedBody, Limits, Observed

JSON = {"Content-Type": "application/json"}
LIMITS = Limits(max_body_bytes=100, request_seconds=0.2)


class FakeObserver:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        assert 0 <= seconds < 5
        self.seen.append((route, method, status))


async def _echo(body: dict[str, str]) -> dict[str, str]:
    return body


async def _read(request: Request) -> dict[str, int]:
    return {"read": len(await request.body())}


async def _half() -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError

    return StreamingResponse(chunks())


def _app(observer: FakeObserver) -> FastAPI:
    app = FastAPI(
        middleware=[Middleware(Observed, observer=observer), Middleware(BoundedBody, limits=LIMITS)],
        exception_handlers={HTTPException: problems.handle},
    )
    app.add_api_route("/echo", _echo, methods=["POST"])
    app.add_api_route("/read/{name}", _read, methods=["POST"])
    app.add_api_route("/half", _half)
    return app


def _call(method: str, path: str, observer: FakeObserver | None = None, **options: Any) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(_app(observer or FakeObserver()))
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            return await client.request(method, path, **options)

    return asyncio.run(call())


async def _stream(*chunks: bytes, pause: float = 0) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(pause)


@pytest.mark.parametrize("path", ["/echo", "/read/x"])
def test_a_body_at_the_limit_passes_and_one_above_it_does_not(path: str) -> None:
    for size, status in ((100, 200), (101, 413)):
        body = b'{"a": "' + b"x" * (size - 9) + b'"}'
        for content in (body, _stream(body[:50], body[50:])):
            observer = FakeObserver()
            response = _call("POST", path, observer, content=content, headers=JSON)
            assert response.status_code == status
            assert observer.seen == [("/read/{name}" if path == "/read/x" else path, "POST", status)]


def test_a_refused_body_is_not_read_to_its_end() -> None:
    taken = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            taken.append(1)
            yield b"x" * 40

    response = _call("POST", "/read/x", content=endless(), headers=JSON)
    assert response.status_code == 413
    assert response.headers["connection"] == "close"
    assert response.headers["content-type"] == problems.MEDIA_TYPE
    assert len(taken) == 3


@pytest.mark.parametrize("declared", ["101", "9" * 5000])
def test_a_body_that_announces_itself_as_too_large_is_not_read_at_all(declared: str) -> None:
    response = _call("POST", "/read/x", content=_stream(b"{}"), headers=JSON | {"Content-Length": declared})
    assert response.status_code == 413


@pytest.mark.parametrize("declared", ["-1", "many", "\u00b2".encode()])
def test_a_length_that_is_no_number_is_not_believed(declared: str) -> None:
    response = _call("POST", "/read/x", content=_stream(b"x" * 101), headers=JSON | {"Content-Length": declared})
    assert response.status_code == 413


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
def test_only_json_is_taken(media_type: str) -> None:
    response = _call("POST", "/echo", content=b"{}", headers={"Content-Type": media_type})
    assert response.status_code == 415


def test_json_may_name_its_charset() -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert _call("POST", "/echo", content=b"{}", headers=headers).status_code == 200


def test_a_body_that_comes_too_slowly_is_given_up() -> None:
    slow = _stream(*[b"x"] * 10, pause=0.05)
    assert _call("POST", "/read/x", content=slow, headers=JSON).status_code == 408


def test_a_failure_in_the_middle_of_an_answer_is_counted_and_breaks_the_connection() -> None:
    observer = FakeObserver()
    with pytest.raises(ConnectionError):
        _call("GET", "/half", observer)
    assert observer.seen == [("/half", "GET", 200)]


def test_no_answer_may_be_kept_by_a_proxy() -> None:
    assert _call("GET", "/none").headers["cache-control"] == "no-store"


# Packed bodies

GZIP = {**JSON, "Content-Encoding": "gzip"}


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_a_packed_body_is_read_as_what_was_packed(encoding: str) -> None:
    packed = gzip.compress(b'{"a": "b"}')
    for content in (packed, _stream(*(packed[at : at + 1] for at in range(len(packed))))):
        response = _call("POST", "/echo", content=content, headers={**JSON, "Content-Encoding": encoding})
        assert (response.status_code, response.json()) == (200, {"a": "b"})


def test_a_body_may_be_packed_in_several_members() -> None:
    packed = gzip.compress(b'{"a":') + gzip.compress(b"") + gzip.compress(b' "b"}')
    assert _call("POST", "/echo", content=packed, headers=GZIP).json() == {"a": "b"}


def test_a_packed_body_at_the_limit_passes_and_one_that_unpacks_to_more_does_not() -> None:
    for size, status in ((100, 200), (101, 413), (100_000_000, 413)):
        packed = gzip.compress(b'{"a": "' + b"x" * (size - 9) + b'"}')
        content = packed if len(packed) <= 100 else _stream(*(packed[at : at + 10] for at in range(0, 100, 10)))
        assert _call("POST", "/echo", content=content, headers=GZIP).status_code == status


def test_a_bomb_is_not_unpacked_beyond_the_limit() -> None:
    gunzip = Gunzip(1_000)
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    assert len(gunzip.feed(bomb)) == 1_001
    assert gunzip.feed(bomb) == b""
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert gunzip.unpacked == 1_001


@pytest.mark.parametrize(
    "content",
    [b'{"a": "b"}', gzip.compress(b'{"a": "b"}')[:-1], gzip.compress(b'{"a": "b"}') + b"more", b""],
    ids=["not packed", "torn", "followed by something", "nothing"],
)
def test_a_body_that_is_not_packed_as_it_says_is_refused(content: bytes) -> None:
    response = _call("POST", "/echo", content=content, headers=GZIP)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert "gzip" in response.json()["detail"]


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
def test_other_packings_are_refused_with_those_that_are_taken(encoding: str) -> None:
    response = _call("POST", "/echo", content=b"{}", headers={**JSON, "Content-Encoding": encoding})
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip"


def test_a_body_may_say_that_it_is_not_packed() -> None:
    response = _call("POST", "/echo", content=b'{"a": "b"}', headers={**JSON, "Content-Encoding": "identity"})
    assert response.json() == {"a": "b"}

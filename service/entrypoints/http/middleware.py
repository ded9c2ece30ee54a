"""What surrounds every request: bounds on its body, its time and its line in the log and the metrics.

Pure ASGI. A body is refused when it is asked for, not before: by then the router has found the route, so the refusal is
counted under its template.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.entrypoints import correlation
from service.entrypoints.http.encodings import ENCODINGS, Gunzip, NotGzip
from service.entrypoints.http.hosts import PROBES
from service.entrypoints.http.problems import problem_from
from service.entrypoints.telemetry import METHODS, route_of

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})  # where a route asks for one
_BATCHES = ("/interactions", "/items", "/forget/batch", "/forget/batch/preview")  # paths whose bodies hold many rows
# Without it, the rest of a refused body would be read and thrown away.
_CLOSE = {"Connection": "close"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """`request_seconds` bounds both the arrival of a body and the answer to a recommendation."""

    max_body_bytes: int = 256 * 1024
    request_seconds: float = 10.0
    max_batch_bytes: int = 4 * 2**20  # of a body of many rows


class RequestObserver(Protocol):
    """Hears of every answer. `route` is a template, never a raw path."""

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None: ...


class Observed:
    """Counts and logs every request, and answers an unexpected exception with a 500 problem."""

    def __init__(self, app: ASGIApp, observer: RequestObserver) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        answer = _Answer(send)
        traced = correlation.current.get()
        own = correlation.of_request(Headers(scope=scope).get("traceparent"))
        token = correlation.current.set(replace(traced, request_id=own.request_id) if traced.trace_id else own)
        try:
            await self._answered(scope, receive, answer)
        finally:
            self._report(scope, answer.status, perf_counter() - began)
            correlation.current.reset(token)

    async def _answered(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            _log.error("unexpected failure", exc_info=True, extra={"fields": {"route": route_of(scope)}})
            if not answer.started:
                await problem_from(error)(scope, receive, answer.send)
            elif not answer.complete:
                # Half an answer must not look like a whole one: the server breaks the connection.
                raise

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        route = route_of(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._observer.observe_request(route, method, status, seconds)
        fields = {"route": route, "method": method, "status": status, "seconds": round(seconds, 6)}
        # A probe that hears "not yet" heard what it asked for.
        failed = status >= 500 and not scope["path"].endswith(PROBES)
        _log.log(logging.ERROR if failed else logging.INFO, "request", extra={"fields": fields})


class BoundedBody:
    """Refuses a body that is not JSON (415), is too large (413, also without Content-Length) or too slow (408).

    A body may be packed with gzip: then its size is bounded as it arrives and as it is unpacked.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = _Body(scope, receive, self._limits).receive
        await self._app(scope, receive, send)


class _Answer:
    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.complete = False
        self.status = 500

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            # Answers are about people: no proxy may keep one past a deletion.
            MutableHeaders(scope=message).setdefault("Cache-Control", "no-store")
        await self._send(message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)


class _Body:
    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self._method = scope["method"]
        self._headers = Headers(scope=scope)
        self._receive = receive
        self._limits = limits
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        self._most_bytes = max(limits.max_body_bytes, limits.max_batch_bytes if path in _BATCHES else 0)
        self._bytes = 0
        self._deadline: float | None = None
        self._complete = False
        self._gunzip: Gunzip | None = None

    async def receive(self) -> Message:
        if self._complete:
            # What follows a body is only the news that the client has left; it may take any time.
            return await self._receive()
        if self._deadline is None:
            self._check_headers()
            self._deadline = asyncio.get_running_loop().time() + self._limits.request_seconds
        message = await self._receive_until(self._deadline)
        self._bytes += len(message.get("body", b""))
        self._check_size(self._bytes)
        self._complete = not message.get("more_body", False)
        return message if self._gunzip is None else self._unpacked(message, self._gunzip)

    def _unpacked(self, message: Message, gunzip: Gunzip) -> Message:
        try:
            body = gunzip.feed(message.get("body", b""))
            if self._complete and message["type"] == "http.request":
                gunzip.finish()
        except NotGzip as error:
            raise HTTPException(400, "The body is not what Content-Encoding: gzip promises.", _CLOSE) from error
        self._check_size(gunzip.unpacked)
        return {**message, "body": body}

    async def _receive_until(self, deadline: float) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "The body did not arrive in time.", _CLOSE) from error

    def _check_headers(self) -> None:
        declared = self._headers.get("content-length", "")
        # The bound on digits keeps int() away from numbers that are themselves an attack.
        self._check_size(int(declared[:18]) if declared.isascii() and declared.isdigit() else 0)
        media_type = self._headers.get("content-type", "").partition(";")[0].strip().lower()
        if self._method in _METHODS_WITH_BODY and media_type != "application/json":
            raise HTTPException(415, "Send the body as application/json.", _CLOSE)
        self._check_encoding(self._headers.get("content-encoding", "").strip().lower())

    def _check_encoding(self, encoding: str) -> None:
        if self._method not in _METHODS_WITH_BODY or encoding in ("", "identity"):
            return
        if encoding not in ENCODINGS:
            detail = "Send the body as it is, or packed once with Content-Encoding: gzip."
            raise HTTPException(415, detail, {**_CLOSE, "Accept-Encoding": "gzip"})
        self._gunzip = Gunzip(self._most_bytes)

    def _check_size(self, size: int) -> None:
        if size > self._most_bytes:
            raise HTTPException(413, f"A body may have at most {self._most_bytes} bytes.", _CLOSE)

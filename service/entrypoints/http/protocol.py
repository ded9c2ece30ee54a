"""HTTP connections with bounds: on the head, its headers and its time, and on how many connections there are.

uvicorn's own protocol reads a head of any size and waits for it for ever. What is refused here never becomes a request, so it
is counted apart (`lethe_http_refused_total`).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_PHRASES = {408: "Request Timeout", 414: "URI Too Long", 431: "Request Header Fields Too Large"}
Refused = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bytes of a head (request line and headers, or trailers) and of a URL; headers; seconds for a head; open connections."""

    head_bytes: int = 32_768
    url_bytes: int = 8_192
    headers: int = 100
    head_seconds: float = 10.0
    connections: int = 1_000
    connections_of_one: int = 500


class Connections:
    """All open connections of a server, the one that opened first in front. It belongs to one event loop."""

    def __init__(self, limits: ConnectionLimits, refused: Refused) -> None:
        """`refused` hears why something was refused: head, url, headers, slow, connections."""
        self.limits = limits
        self.refused = refused
        self._open: dict[BoundedHttp, str] = {}
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def take_in(self, connection: BoundedHttp, address: str) -> bool:
        """Whether there is room, after the oldest that does nothing was closed for it if need be."""
        if self._of[address] >= self.limits.connections_of_one and not self._make_room(address):
            return False
        if len(self._open) >= self.limits.connections and not self._make_room(None):
            return False
        self._open[connection] = address
        self._of[address] += 1
        return True

    def let_go(self, connection: BoundedHttp) -> None:
        """It is closed; more than once does no harm."""
        address = self._open.pop(connection, None)
        if address is not None:
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]

    def _make_room(self, address: str | None) -> bool:
        # Whoever holds hundreds of connections open and asks nothing loses them, not those who come to ask.
        for connection, other in self._open.items():
            if connection.is_idle and address in (None, other):
                self.refused("connections")
                self.let_go(connection)
                connection.transport.abort()
                return True
        return False


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol over httptools, with the bounds of `Connections`. Use `bounded_http` to make a class of it."""

    open_connections: Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = self.open_connections.limits
        self._unheard = 0  # bytes that have come since the parser last told of a beginning, a body or an end
        self._head_size = 0
        self._head_headers = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._refused = False

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it in, or break it off if there are too many."""
        super().connection_made(transport)
        if self.open_connections.take_in(self, self.client[0] if self.client else ""):
            self._wait_for_head()
            return
        self.open_connections.refused("connections")
        self._refused = True
        transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.open_connections.let_go(self)
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and refuse what is no beginning of a request within the bounds."""
        if self._refused:
            return
        self._unheard += len(data)
        super().data_received(data)
        if self._unheard > self._limits.head_bytes and not self._refused:
            self._refuse(431, "head")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._heard()
        self._head_size = self._head_headers = 0
        self._wait_for_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the URL."""
        super().on_url(url)
        if len(self.url) > self._limits.url_bytes:
            self._refuse(414, "url")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer after the body: they count together."""
        self._head_headers += 1
        self._head_size += len(name) + len(value) + 4
        if self._head_headers > self._limits.headers or self._head_size > self._limits.head_bytes:
            self._refuse(431, "headers")
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there; unless it was refused, the request begins."""
        self._heard()
        self._stop_waiting()
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body, whose size and time the application bounds."""
        self._heard()
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come whole."""
        self._heard()
        if not self._refused:
            super().on_message_complete()

    def _heard(self) -> None:
        self._unheard = 0

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(self._limits.head_seconds, self._refuse, 408, "slow")

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int, reason: str) -> None:
        if self._refused:
            return
        self._refused = True
        self._stop_waiting()
        self.open_connections.refused(reason)
        if self.is_idle:  # else an earlier request of this connection is being answered
            self.transport.write(_answer(status))
        self.transport.close()


def bounded_http(open_connections: Connections) -> type[BoundedHttp]:
    """A protocol class of these connections, as uvicorn wants one."""
    return type("BoundedHttp", (BoundedHttp,), {"open_connections": open_connections})


def _answer(status: int) -> bytes:
    problem = {
        "type": "about:blank",
        "title": _PHRASES[status],
        "status": status,
        "detail": "The head of the request was too large, or came too slowly.",
    }
    body = json.dumps(problem).encode()
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body

"""A receiver of notifications: a real server on loopback, in a thread of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Heard:
    """One delivery, as the receiver had it."""

    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Listener:
    """`answer` is called with each request, and says the status; if it raises, the connection breaks."""

    def __init__(self, answer: Callable[[Heard], int] = lambda _: 200, port: int = 0) -> None:
        self.heard: list[Heard] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                heard = Heard({name.lower(): value for name, value in self.headers.items()}, body)
                status = answer(heard)
                listener.heard.append(heard)
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # it would print what a story wants
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, path: str = "/hook?of=lethe") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def listening(answer: Callable[[Heard], int] = lambda _: 200, port: int = 0) -> Iterator[Listener]:
    listener = Listener(answer, port)
    try:
        yield listener
    finally:
        listener.stop()

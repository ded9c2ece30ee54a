"""Requests as bytes, so that they may be anything, and their answers."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Asked:
    """One request. `template` is the documented path that it is made from; None: of none."""

    method: str
    target: bytes
    headers: Sequence[Header] = ()
    body: bytes = b""
    template: str | None = None
    key: str = "all"  # name of the key that it brings
    what: str = "as documented"  # the mutation

    def message(self, host: str, token: str | None) -> bytes:
        """What is sent. A length is stated unless the headers say how the body ends."""
        headers = list(self.headers)
        named = {name.lower() for name, _ in headers}
        if token is not None and not named & {b"authorization", b"x-api-key"}:
            headers.append((b"Authorization", b"Bearer " + token.encode()))
        if not named & {b"content-length", b"transfer-encoding"} and (self.body or self.method in {"POST", "PUT"}):
            headers.append((b"Content-Length", str(len(self.body)).encode()))
        if b"host" not in named:
            headers.insert(0, (b"Host", host.encode()))
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        return self.method.encode() + b" " + self.target + b" HTTP/1.1\r\n" + head + b"\r\n" + self.body


@dataclass(frozen=True)
class Answered:
    """`status` 0: the connection was closed without an answer."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip()


class Connection:
    """One connection, opened anew when the server has closed it."""

    def __init__(self, port: int, seconds: float = 30.0) -> None:
        self._port = port
        self._seconds = seconds
        self._socket: socket.socket | None = None

    def ask(self, asked: Asked, token: str | None) -> Answered:
        """Send it and read the answer. Raises TimeoutError if there is none in time."""
        message = asked.message(f"127.0.0.1:{self._port}", token)
        answer = self._attempt(asked, message)
        # An idle connection may be closed just while it is used again.
        return answer if answer.status else self._attempt(asked, message)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _attempt(self, asked: Asked, message: bytes) -> Answered:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=self._seconds)
        with suppress(ConnectionError):  # it may refuse a head, and answer, before all of it is sent
            self._socket.sendall(message)
        response = http.client.HTTPResponse(self._socket, method=asked.method)
        try:
            response.begin()
            answer = Answered(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except (http.client.HTTPException, ConnectionError):
            self.close()
            return Answered(0, {}, b"")
        if response.will_close or asked.what in BREAKING:
            self.close()
        return answer


# After these, what follows on the connection could be read as a part of them.
BREAKING = frozenset({"length", "transfer", "trailer"})

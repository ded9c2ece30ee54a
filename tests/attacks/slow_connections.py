"""Open thousands of connections and send heads that never end, byte by byte: python -m tests.attacks.slow_connections"""

from __future__ import annotations

import socket
from contextlib import suppress
from time import perf_counter

import httpx

from tests.attacks.target import Figures, Target, run


def slow_connections(target: Target, connections: int = 2_000, seconds: float = 20.0) -> Figures:
    """Whether the server's health is answered throughout, and how many connections it holds in the end."""
    held: list[socket.socket] = []
    slowest, failed, asked = 0.0, 0, 0
    ends = perf_counter() + seconds
    while perf_counter() < ends:
        if len(held) < connections:
            for _ in range(50):
                with suppress(OSError):
                    held.append(target.connect())
                    held[-1].sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: a")
        for connection in held:
            with suppress(OSError):
                connection.send(b"a")
        began = perf_counter()
        try:
            with target.client() as client:
                failed += client.get("/healthz", timeout=5).status_code != 200
        except httpx.HTTPError:
            failed += 1
        asked, slowest = asked + 1, max(slowest, perf_counter() - began)
    opened = len(held)
    alive = sum(_is_open(connection) for connection in held)
    for connection in held:
        connection.close()
    return {
        "opened": opened,
        "still_open": alive,
        "health_asked": asked,
        "failed": failed,
        "slowest_s": round(slowest, 2),
    }


def _is_open(connection: socket.socket) -> bool:
    try:
        connection.setblocking(False)
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    run(slow_connections)

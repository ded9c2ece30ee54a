"""Send heads without an end: python -m tests.attacks.large_heads --pid PID"""

from __future__ import annotations

from contextlib import suppress

from tests.attacks.target import Figures, Target, run

CHUNK = 65_536


def large_heads(target: Target, megabytes: int = 64) -> Figures:
    """How much of one header, of many, of a URL and of trailers a server takes in, and what memory that costs it."""
    before = target.memory()
    starts = {
        "one header": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"a" * CHUNK),
        "many headers": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"X-A: aaaaaaaa\r\n" * (CHUNK // 15)),
        "url": (b"GET /", b"a" * CHUNK),
        "trailers": (
            b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X-A: aaaaaaaa\r\n" * (CHUNK // 15),
        ),
    }
    taken = {name: _taken(target, start, more, megabytes * 2**20) for name, (start, more) in starts.items()}
    return {"kilobytes_taken": taken, "memory_megabytes": round((target.memory() - before) / 2**20)}


def _taken(target: Target, start: bytes, more: bytes, most: int) -> int:
    sent = 0
    with target.connect() as connection, suppress(OSError):
        connection.sendall(start)
        while sent < most:
            connection.sendall(more)
            sent += len(more)
    return sent // 1024


if __name__ == "__main__":
    run(large_heads)

"""Load on an HTTP server: arrivals at times drawn beforehand (open loop), or as fast as answers come (closed loop).

An open loop does not wait for answers: the times of a Poisson process are drawn from a seed, and latency counts from the
time that was drawn, not from the moment at which this process came to send. So an answer that comes late delays nobody's
clock, and nothing that a slow server kept waiting is left out (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Self

OK = 200
REFUSED = (429, 503)
NO_ANSWER = 0  # stands in for the status: the connection failed, or nothing came in time

_PATIENCE = 60.0  # seconds
_IDLE = 2.0  # seconds after which a connection is not trusted any more: servers close idle ones


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's fate. `seconds` run from when it was due (by `perf_counter`) to the answer's last byte."""

    due: float
    late: float  # seconds from when it was due until this process sent it
    seconds: float
    status: int


@dataclass(frozen=True, slots=True)
class Latencies:
    """Quantiles by nearest rank, in seconds; None where there are too few answers for one."""

    count: int
    p50: float | None
    p99: float | None
    p999: float | None
    most: float | None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latencies:
        ordered = sorted(seconds)
        p50, p99, p999 = (_quantile(ordered, thousandths) for thousandths in (500, 990, 999))
        return cls(len(ordered), p50, p99, p999, ordered[-1] if ordered else None)


def _quantile(ordered: Sequence[float], thousandths: int) -> float | None:
    above = len(ordered) * (1000 - thousandths) // 1000
    # At least one answer must lie above it, or it would be the maximum under another name.
    return ordered[len(ordered) - above - 1] if above else None


class Processor:
    """What this process, the generator, takes of one processor while its blocks run: on few cores, the server misses it."""

    def __init__(self) -> None:
        self._busy = self._passed = 0.0

    @contextmanager
    def instrumented_ledger(self) -> Iterator[None]:
        busy, began = process_time(), perf_counter()
        yield
        self._busy += process_time() - busy
        self._passed += perf_counter() - began

    @property
    def share(self) -> float:
        return self._busy / self._passed if self._passed else 0.0


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """The times of a Poisson process of `rate` a second within [0, seconds), in order."""
    return list(_poisson(rate, seconds, random.Random(seed)))


def _poisson(rate: float, seconds: float, draw: random.Random) -> Iterator[float]:
    at = draw.expovariate(rate)
    while at < seconds:
        yield at
        at += draw.expovariate(rate)


def statuses(answers: Sequence[Answer]) -> dict[int, int]:
    """Status -> how many, in order of status."""
    return dict(sorted(Counter(answer.status for answer in answers).items()))


class Client:
    """Asks one server over HTTP/1.1, keeping connections. It opens as many as there are requests under way.

    Use it as an asynchronous context manager, which closes them.
    """

    def __init__(self, host: str, port: int, key: str | None = None) -> None:
        """`key` is an API key that is sent along."""
        self._host, self._port = host, port
        self._authorization = "" if key is None else f"Authorization: Bearer {key}\r\n"
        self._idle: list[tuple[float, _Connection]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        while self._idle:
            await self._idle.pop()[1].close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer; `NO_ANSWER` if there is none."""
        message = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n{self._authorization}"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        try:
            async with asyncio.timeout(_PATIENCE):
                connection = await self._connection()
                try:
                    status, content, keep = await connection.exchange(message)
                except BaseException:
                    await connection.close()
                    raise
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, LookupError):
            return NO_ANSWER, b""
        if keep:
            self._idle.append((perf_counter(), connection))
        else:
            await connection.close()
        return status, content

    async def _connection(self) -> _Connection:
        while self._idle:
            since, connection = self._idle.pop()
            if perf_counter() - since < _IDLE:
                return connection
            await connection.close()
        return _Connection(*await asyncio.open_connection(self._host, self._port))


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def exchange(self, message: bytes) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection may be used again. ValueError, LookupError: no plain answer."""
        self._writer.write(message)
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await self._reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), content, headers.get("connection", "").lower() != "close"

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


async def open_loop(client: Client, path: str, bodies: Sequence[bytes], times: Sequence[float]) -> list[Answer]:
    """POST `bodies[n]` at `times[n]` (seconds from now, in order), whatever has become of those before."""
    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for body, due in zip(bodies, times, strict=True):
            await asyncio.sleep(began + due - perf_counter())
            tasks.append(group.create_task(_ask_at(client, path, body, began + due)))
    return [task.result() for task in tasks]


async def _ask_at(client: Client, path: str, body: bytes, due: float) -> Answer:
    late = perf_counter() - due
    status, _ = await client.ask("POST", path, body)
    return Answer(due, late, perf_counter() - due, status)


async def closed_loop(client: Client, path: str, bodies: Sequence[bytes], clients: int) -> Mapping[int, int]:
    """POST all bodies, `clients` of them at any time: how much a server can do, not how long one waits. Returns statuses."""
    waiting = iter(bodies)
    found: Counter[int] = Counter()

    async def one_client() -> None:
        for body in waiting:
            status, _ = await client.ask("POST", path, body)
            found[status] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one_client())
    return found

"""Load on a server: it must say what a user would have waited, whatever the server does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import TypeVar

import pytest

from research.benchmarks.load import (
    NO_ANSWER,
    Client,
    Latencies,
    arrivals,
    closed_loop,
    open_loop,
    statuses,
)

T = TypeVar("T")
Reply = Callable[[bytes], Awaitable[bytes]]
Work = Callable[[Client], Awaitable[T]]
FINE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Doorman:
    """A server whose answers are given by a function of the request's body; counts what it sees."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._visits: list[asyncio.Task[None]] = []
        self.connections = 0
        self.inside = 0
        self.most_inside = 0

    async def receive(self, work: Work[T]) -> T:
        """Be open while a client does its work."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with Client("127.0.0.1", server.sockets[0].getsockname()[1]) as client:
            found = await work(client)
        server.close()
        await asyncio.gather(*self._visits)
        return found

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        visit = asyncio.current_task()
        assert visit is not None
        self._visits.append(visit)
        with suppress(asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()
        await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        answer = await self._reply(body)
        self.inside -= 1
        writer.write(answer)
        return bool(answer) and b"close" not in answer


def visit(reply: Reply, work: Work[T]) -> T:
    return asyncio.run(Doorman(reply).receive(work))


async def at_once(_: bytes) -> bytes:
    return FINE


def test_arrivals_are_those_of_a_seeded_poisson_process() -> None:
    times = arrivals(rate=200.0, seconds=50.0, seed=1)
    assert times == arrivals(200.0, 50.0, 1) != arrivals(200.0, 50.0, 2)
    assert times == sorted(times)
    assert 0.0 < times[0] < times[-1] < 50.0
    assert len(times) == pytest.approx(10_000, rel=0.05)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    # Exponential gaps: a share of 1/e is longer than the mean. Even ones would give none.
    assert sum(gap > 1 / 200 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)


def test_latency_counts_from_when_a_request_was_due() -> None:
    """Ten requests due at once, before a server that answers one every 20 ms: the last has waited for all of them."""
    turn = asyncio.Semaphore(1)

    async def one_by_one(_: bytes) -> bytes:
        async with turn:
            await asyncio.sleep(0.02)
        return FINE

    answers = visit(one_by_one, lambda client: open_loop(client, "/", [b"{}"] * 10, [0.0] * 10))
    waited = sorted(answer.seconds for answer in answers)
    assert waited[-1] >= 0.2
    assert waited[0] < waited[4] < waited[-1]


def test_a_generator_that_comes_late_counts_its_lateness_as_waiting() -> None:
    # The first was due half a second before the load began.
    late, on_time = visit(at_once, lambda client: open_loop(client, "/", [b"{}"] * 2, [-0.5, 0.0]))
    assert late.seconds > late.late >= 0.5 > on_time.late


def test_a_closed_loop_keeps_so_many_requests_under_way_on_as_many_connections() -> None:
    async def slow(_: bytes) -> bytes:
        await asyncio.sleep(0.005)
        return FINE

    door = Doorman(slow)
    found = asyncio.run(door.receive(lambda client: closed_loop(client, "/", [b"{}"] * 40, 4)))
    assert found == {200: 40}
    assert door.most_inside == door.connections == 4


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 429 Too Many\r\nConnection: close\r\ncontent-length: 0\r\n\r\n", 429),
        (b"", NO_ANSWER),
        (b"nothing of HTTP, close\r\n\r\n", NO_ANSWER),
    ],
    ids=["refused", "broken off", "nonsense"],
)
def test_whatever_comes_back_is_counted(answer: bytes, status: int) -> None:
    async def reply(_: bytes) -> bytes:
        return answer

    answers = visit(reply, lambda client: open_loop(client, "/", [b"{}"] * 3, [0.0, 0.01, 0.02]))
    assert statuses(answers) == {status: 3}


def test_a_server_that_is_gone_is_no_exception() -> None:
    async def ask() -> tuple[int, bytes]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            async with Client("127.0.0.1", probe.getsockname()[1]) as client:
                return await client.ask("GET", "/")

    assert asyncio.run(ask()) == (NO_ANSWER, b"")


def test_quantiles_are_told_only_where_some_answer_lies_above_them() -> None:
    thousand = Latencies.of([float(n) for n in range(1_000, 0, -1)])
    assert (thousand.count, thousand.p50, thousand.p99, thousand.p999, thousand.most) == (1_000, 500, 990, 999, 1_000)
    few = Latencies.of([3.0, 1.0])
    assert (few.p50, few.p99, few.p999, few.most) == (1.0, None, None, 3.0)
    assert Latencies.of([]) == Latencies(0, None, None, None, None)

"""A running server beside the scorer that is in it: throughput, latency alone and while a shard retrains, and overload.

The server is a process of its own, asked over a real socket; the offline scorer reads the same published generation in this
process, while the server has nothing to do. Both are given the same requests, and no context twice. The offline scorer finds
them in token ids already, so what the server spends on text, HTTP and JSON counts against it alone. So does what this process
spends on asking: its share of a processor is told.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from research.benchmarks.interleaved import (
    Contestant,
    Floor,
    Timing,
    race,
)
from research.benchmarks.load import (
    NO_ANSWER,
    OK,
    REFUSED,
    Answer,
    Client,
    Latencies,
    Processor,
    arrivals,
    closed_loop,
    open_loop,
    statuses,
)
from research.benchmarks.report import Section, section_of
from research.benchmarks.requests import Ask, Asker
from service.errors import LetheError
from service.scoring.requests import EncodedRequest, ScoreRequest

HOST = "127.0.0.1"
OFFLINE, HTTP = "offline scorer", "http"

_RECOMMEND = "/recommend"
_PROMPT = 0.05  # seconds within which an overloaded server should refuse
_READY = 300.0  # seconds that a server has to become ready
_DELETION = 1_800.0  # seconds that a deletion may take
_POLL = 0.1
_BATCHES_WAITING = 3  # while one is scored, the next must be there already, and the one after it on its way


class Offline(Protocol):
    """The scorer."""

    def encoded(self, requests: Sequence[ScoreRequest]) -> Sequence[EncodedRequest]: ...

    def score(self, requests: Sequence[EncodedRequest]) -> object: ...


class ServingFailed(LetheError):
    """The server did not do what its figures would need: no figure is told."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard. Rates are shares of the throughput at saturation, which is measured first."""

    rounds: int = 3
    saturated_seconds: float = 3.0  # of one run
    steady_seconds: float = 15.0  # alone; and as long again while shards retrain
    overload_seconds: float = 15.0  # longer than a request may wait, or its end is not seen
    steady: float = 0.7
    overload: float = 3.0
    seed: int = 0


class Trial:
    """One server, one shape of requests."""

    def __init__(self, port: int, offline: Offline, asker: Asker, floor: Floor, max_tokens: int, plan: Plan) -> None:
        """`floor` is of one request; `max_tokens` bounds a batch, offline as in the server."""
        self._port = port
        self._offline = offline
        self._asker = asker
        self._floor = floor
        self._a_batch = max(1, max_tokens // asker.shape.tokens)
        self._plan = plan
        self._asking, self._sending = Processor(), Processor()  # at saturation, and at a given rate

    def run(self, people: Iterator[str]) -> list[Section]:
        """The tables. `people` are those who may be forgotten, of whom each deletion takes one."""
        timings = self._saturate()
        offline, http = timings
        notes = (
            f"a request reads {self._floor.tokens:g} tokens, {self._floor.flops / 1e9:.3g} GFLOP, however it is answered",
            f"http: {self._clients} clients, each asking as soon as it was answered; "
            f"offline: batches of {self._a_batch} requests, in token ids",
            _of_a_processor(self._asking),
        )
        loads = tuple(self._loads(http.throughput, 1 / offline.throughput, people))
        name = self._asker.shape.name
        return [
            section_of(f"throughput, {name}", timings, OFFLINE, "request", notes),
            Section(f"latency, {name}", loads, (*_LATENCY_NOTES, _of_a_processor(self._sending))),
        ]

    # Throughput

    @property
    def _clients(self) -> int:
        return _BATCHES_WAITING * self._a_batch

    def _saturate(self) -> tuple[Timing, ...]:
        count = self._count_for(self._plan.saturated_seconds)
        runs = 1 + self._plan.rounds
        # Made before the clock runs, and for every run anew: what was read once might be remembered.
        asks = [self._asker.draw(count) for _ in range(runs)]
        offline, http = iter([self._encoded(own) for own in asks]), iter(asks)
        floor = Floor(count * self._floor.tokens, count * self._floor.flops)
        contestants = (
            Contestant(OFFLINE, lambda: self._score_all(next(offline)), count, floor),
            Contestant(HTTP, lambda: self._ask_all(next(http)), count, floor),
        )
        return race(contestants, self._plan.rounds)

    def _count_for(self, seconds: float) -> int:
        trial = self._encoded(self._asker.draw(2 * self._a_batch))
        self._score_all(trial[: self._a_batch])
        began = perf_counter()
        self._score_all(trial[self._a_batch :])
        batches = max(1, round(seconds / (perf_counter() - began)))
        return batches * self._a_batch

    def _encoded(self, asks: Sequence[Ask]) -> Sequence[EncodedRequest]:
        return self._offline.encoded([ask.request() for ask in asks])

    def _score_all(self, requests: Sequence[EncodedRequest]) -> None:
        for i in range(0, len(requests), self._a_batch):
            self._offline.score(requests[i : i + self._a_batch])

    def _ask_all(self, asks: Sequence[Ask]) -> None:
        async def ask_all() -> Mapping[int, int]:
            async with Client(HOST, self._port) as client:
                return await closed_loop(client, _RECOMMEND, [ask.body() for ask in asks], self._clients)

        with self._asking.instrumented_ledger():
            found = asyncio.run(ask_all())
        if found.keys() != {OK}:
            raise ServingFailed(f"at saturation the server answered {dict(found)}; only {OK} was expected")

    # Latency

    def _loads(self, saturation: float, least: float, people: Iterator[str]) -> Iterator[dict[str, Any]]:
        rate, percent = self._plan.steady * saturation, f"{self._plan.steady:.0%}"
        alone: list[Answer] = []
        beside: list[Answer] = []
        spans: list[tuple[float, float]] = []
        seconds = self._plan.steady_seconds / self._plan.rounds
        for number in range(self._plan.rounds):
            alone += asyncio.run(self._load(self._schedule(rate, seconds, 2 * number)))
            answers, taken = asyncio.run(self._load_beside(self._schedule(rate, seconds, 2 * number + 1), people))
            beside, spans = beside + answers, spans + taken
        during = [answer for answer in beside if any(began <= answer.due < ended for began, ended in spans)]
        seconds_each = sum(ended - began for began, ended in spans) / len(spans) if spans else None
        yield latency_row(f"{percent}, alone", rate, least, alone)
        yield latency_row(f"{percent}, a shard retrains", rate, least, during) | {
            "deletions": len(spans),
            "s/deletion": seconds_each,
        }
        high = self._plan.overload * saturation
        flooded = asyncio.run(self._load(self._schedule(high, self._plan.overload_seconds, 2 * self._plan.rounds)))
        percent = f"{self._plan.overload:.0%}"
        yield latency_row(f"{percent}, all", high, least, flooded)
        yield latency_row(f"{percent}, refused", high, least, [a for a in flooded if a.status in REFUSED])

    def _schedule(self, rate: float, seconds: float, number: int) -> tuple[list[bytes], list[float]]:
        times = arrivals(rate, seconds, self._plan.seed * 1_000 + number)
        return [ask.body() for ask in self._asker.draw(len(times))], times

    async def _load(self, schedule: tuple[list[bytes], list[float]]) -> list[Answer]:
        with self._sending.instrumented_ledger():
            async with Client(HOST, self._port) as client:
                return await open_loop(client, _RECOMMEND, *schedule)

    async def _load_beside(
        self, schedule: tuple[list[bytes], list[float]], people: Iterator[str]
    ) -> tuple[list[Answer], list[tuple[float, float]]]:
        with self._sending.instrumented_ledger():
            async with Client(HOST, self._port) as client:
                load = asyncio.create_task(open_loop(client, _RECOMMEND, *schedule))
                spans = []
                # The last deletion is waited for: what comes next is to be alone again.
                while not load.done() and (person := next(people, None)) is not None:
                    spans.append(await forget(client, person))
                return await load, spans


_LATENCY_NOTES = (
    "arrivals of a Poisson process; milliseconds from when a request was due, whenever it was really sent",
    "floor ms: one request's share of the offline scorer's time in full batches",
    "a shard retrains: only requests that were due between a deletion's acceptance and its completion",
    "sent late: how far the generator itself lay behind its schedule; if this is not small beside p50, it had no processor",
)


def _of_a_processor(asking: Processor) -> str:
    return f"asking took {asking.share:.0%} of a processor, which on few cores the server misses"


def latency_row(load: str, rate: float, least: float, answers: Sequence[Answer]) -> dict[str, Any]:
    """One line of the table: `rate` requests a second were sent; `least` is the scorer's own seconds a request."""
    found = statuses(answers)
    waited = Latencies.of([answer.seconds for answer in answers])
    refused = sum(found.get(status, 0) for status in REFUSED)
    return {
        "load": load,
        "requests": len(answers),
        "rate/s": rate,
        "answered": found.get(OK, 0),
        "refused": refused,
        "errors": len(answers) - found.get(OK, 0) - refused,
        "unanswered": found.get(NO_ANSWER, 0),
        "floor ms": 1e3 * least,
        "p50 ms": _milliseconds(waited.p50),
        "p99 ms": _milliseconds(waited.p99),
        "p99.9 ms": _milliseconds(waited.p999),
        "most ms": _milliseconds(waited.most),
        "p99/p50": waited.p99 / waited.p50 if waited.p99 and waited.p50 else None,
        "within 50 ms": sum(a.seconds <= _PROMPT for a in answers) / len(answers) if answers else None,
        "sent late p99 ms": _milliseconds(Latencies.of([answer.late for answer in answers]).p99),
        "deletions": None,
        "s/deletion": None,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


async def forget(client: Client, user_id: str) -> tuple[float, float]:
    """Have somebody forgotten; when it was accepted and when it was completed, by `perf_counter`. Raises ServingFailed."""
    status, content = await client.ask("POST", "/forget", json.dumps({"user_id": user_id}).encode())
    if status != 202:
        raise ServingFailed(f"a deletion was answered {status}; 202 was expected")
    began, path = perf_counter(), f"/forget/{json.loads(content)['request_id']}"
    while perf_counter() - began < _DELETION:
        status, content = await client.ask("GET", path)
        if status == OK and json.loads(content)["state"] == "completed":
            return began, perf_counter()
        await asyncio.sleep(_POLL)
    raise ServingFailed(f"a deletion was not completed within {_DELETION:g} seconds")


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], port: int, log: Path) -> Iterator[None]:
    """A server process that is ready; it ends with the block. Raises ServingFailed, with the end of its log."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        _wait_until_ready(process, port, log)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_READY)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    async def ready() -> bool:
        async with Client(HOST, port) as client:
            return (await client.ask("GET", "/readyz"))[0] == OK

    deadline = time.monotonic() + _READY
    while not asyncio.run(ready()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServingFailed(f"the server did not become ready; its log ends: {log.read_text('utf-8')[-500:]}")
        time.sleep(_POLL)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port

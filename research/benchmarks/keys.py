"""What API keys and quotas cost a server: two of the same generation, one open and one with keys, asked in turns; then load.

Each is a process of its own over a real socket. The throughput at saturation is a race in rounds; the server with keys is then
asked at a share of its own throughput, and beyond what it can do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from research.benchmarks.interleaved import Contestant, Floor, Timing, race
from research.benchmarks.load import OK, REFUSED, Answer, Client, arrivals, closed_loop, open_loop
from research.benchmarks.report import Section, section_of
from research.benchmarks.requests import Ask, Asker
from research.benchmarks.serving import HOST, Plan, ServingFailed, latency_row

OPEN, KEYED = "open", "with keys and quotas"

_RECOMMEND = "/recommend"
_TRIAL = 16  # requests that say how long one takes


@dataclass(frozen=True, slots=True)
class Door:
    """A server, and the key that it wants."""

    port: int
    key: str | None = None

    def client(self) -> Client:
        return Client(HOST, self.port, self.key)


class KeysTrial:
    """Two servers, one shape of requests."""

    def __init__(self, opened: Door, keyed: Door, asker: Asker, floor: Floor, clients: int, plan: Plan) -> None:
        """`clients` ask at any time, at saturation."""
        self._doors = {OPEN: opened, KEYED: keyed}
        self._asker = asker
        self._floor = floor
        self._clients = clients
        self._plan = plan

    def run(self) -> list[Section]:
        """The tables: throughputs, and latencies of the server with keys."""
        timings = self._saturate()
        notes = (f"{self._clients} clients, each asking as soon as it was answered",)
        keyed = next(timing for timing in timings if timing.name == KEYED)
        name = self._asker.shape.name
        return [
            section_of(f"throughput, {name}", timings, OPEN, "request", notes),
            Section(f"latency with keys and quotas, {name}", tuple(self._loads(keyed.throughput)), _NOTES),
        ]

    def _saturate(self) -> tuple[Timing, ...]:
        trial = race([self._contestant(OPEN, _TRIAL, runs=2)], 1)
        count = max(_TRIAL, round(trial[0].throughput * self._plan.saturated_seconds))
        runs = 1 + self._plan.rounds
        return race([self._contestant(name, count, runs) for name in self._doors], self._plan.rounds)

    def _contestant(self, name: str, count: int, runs: int) -> Contestant:
        asks = iter([self._asker.draw(count) for _ in range(runs)])
        floor = Floor(count * self._floor.tokens, count * self._floor.flops)
        return Contestant(name, lambda: self._ask_all(self._doors[name], next(asks)), count, floor)

    def _ask_all(self, door: Door, asks: list[Ask]) -> None:
        async def ask_all() -> set[int]:
            async with door.client() as client:
                bodies = [ask.body() for ask in asks]
                return set(await closed_loop(client, _RECOMMEND, bodies, self._clients))

        if (found := asyncio.run(ask_all())) != {OK}:
            raise ServingFailed(f"at saturation the server answered {sorted(found)}; only {OK} was expected")

    def _loads(self, saturation: float) -> Iterator[dict[str, Any]]:
        for number, (share, seconds) in enumerate(
            ((self._plan.steady, self._plan.steady_seconds), (self._plan.overload, self._plan.overload_seconds))
        ):
            answers = asyncio.run(self._load(share * saturation, seconds, number))
            yield latency_row(f"{share:.0%}", share * saturation, 1 / saturation, answers)
            if share > 1:
                refused = [answer for answer in answers if answer.status in REFUSED]
                yield latency_row(f"{share:.0%}, refused", share * saturation, 1 / saturation, refused)

    async def _load(self, rate: float, seconds: float, number: int) -> list[Answer]:
        times = arrivals(rate, seconds, self._plan.seed * 1_000 + number)
        bodies = [ask.body() for ask in self._asker.draw(len(times))]
        async with self._doors[KEYED].client() as client:
            return await open_loop(client, _RECOMMEND, bodies, times)


_NOTES = (
    "arrivals of a Poisson process; milliseconds from when a request was due, whenever it was really sent",
    "floor ms: one request's share of the throughput at saturation",
    "sent late: how far the generator itself lay behind its schedule; if this is not small beside p50, it had no processor",
)

"""Events into a running server while people ask it for recommendations: rows a second over HTTP, and what answers wait for it.

The server is a process of its own on a real socket, on whichever database. Recommendations are asked for at times drawn
beforehand (an open loop); the same rate alone and beside the stream, in turns. Whoever streams sends batches, each one
transaction. The floor is what the database's driver takes of such rows (`ingestion.floor_writer`), while the server has
nothing to do.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from research.benchmarks.ingestion import Row, Stream, floor_writer
from research.benchmarks.load import (
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
from research.benchmarks.report import Goal, Section, goals_of
from research.benchmarks.serving import HOST, ServingFailed, latency_row
from service.building.progress import Progress

_EVENTS, _RECOMMEND = "/interactions", "/recommend"
_TOP_K = 10
_WARM_UP = 20  # recommendations that are not counted


@dataclass(frozen=True, slots=True)
class StreamingPlan:
    """How long and how much. `wanted` rows a second stream in while recommendations wait; then as many as are taken."""

    batch: int = 1_000
    batches: int = 60  # of one run at saturation
    clients: int = 2  # that stream at saturation
    wanted: float = 5_000.0
    rate: float = 4.0  # recommendations a second
    seconds: float = 30.0  # of each load, over all rounds
    rounds: int = 3
    seed: int = 0


class StreamingTrial:
    """One server. `people` ask for recommendations; those who stream are others, so that nobody's history grows meanwhile."""

    def __init__(
        self,
        port: int,
        people: Sequence[str],
        items: Sequence[str],
        at: Path | str,
        plan: StreamingPlan,
        progress: Progress,
    ) -> None:
        """`at` is where the floor's table is made: a folder for an SQLite file of its own, or PostgreSQL's URL."""
        self._port, self._at, self._plan, self._progress = port, at, plan, progress
        self._asking = Processor()
        self._bodies = [_wanted_by(person) for person in people]
        self._rows = _of_items(Stream(10 * plan.batch, len(items), plan.batch, plan.seed).batches("streamed"), items)
        self._asked = 0

    def run(self) -> list[Section]:
        """Rows a second of the floor and of the server, and latencies with and without them; then which goals are met."""
        plan, loads = self._plan, os.getloadavg()
        self._progress.phase("streaming", 5 * plan.rounds)
        asyncio.run(self._recommended(_WARM_UP / plan.rate, 0))
        floor, alone_rows, beside_rows, paced_rows = [list[float]() for _ in range(4)]
        alone, paced, beside = [list[Answer]() for _ in range(3)]
        for number in range(plan.rounds):
            floor.append(self._floor())
            alone_rows.append(asyncio.run(self._saturated()))
            self._progress.advance(2)
            alone += asyncio.run(self._recommended(plan.seconds / plan.rounds, number))
            answers, rows = asyncio.run(self._beside(self._paced, number))
            paced, paced_rows = paced + answers, [*paced_rows, rows]
            answers, rows = asyncio.run(self._beside(self._flat_out, number))
            beside, beside_rows = beside + answers, [*beside_rows, rows]
            self._progress.advance(3)
        ways = {
            "the database alone": floor,
            "POST /interactions alone": alone_rows,
            f"{plan.wanted:,.0f}/s, beside recommendations": paced_rows,
            "all that is taken, beside recommendations": beside_rows,
        }
        latencies = {"alone": alone, f"beside {plan.wanted:,.0f} rows/s": paced, "beside all that is taken": beside}
        return [
            self._rows_section(ways, loads),
            self._latencies(latencies),
            goals_of(self._goals(alone_rows, paced_rows, alone, paced)),
        ]

    # Rows

    def _floor(self) -> float:
        batches = list(islice(self._rows, self._plan.batches))
        with floor_writer(self._at) as write:
            began = perf_counter()
            for rows in batches:
                write(rows)
            return self._rows_a_second(len(batches), perf_counter() - began)

    async def _saturated(self) -> float:
        bodies = [_body(rows) for rows in islice(self._rows, self._plan.batches)]
        async with Client(HOST, self._port) as client:
            began = perf_counter()
            with self._asking.instrumented_ledger():
                found = await closed_loop(client, _EVENTS, bodies, self._plan.clients)
            _require_taken(found)
            return self._rows_a_second(len(bodies), perf_counter() - began)

    def _rows_a_second(self, batches: int, seconds: float) -> float:
        return batches * self._plan.batch / seconds

    # Beside recommendations

    async def _recommended(self, seconds: float, number: int) -> list[Answer]:
        plan = self._plan
        times = arrivals(plan.rate, seconds, plan.seed * 1_000 + number)
        # Everybody in turns: what was read of a person a moment ago would be remembered.
        bodies = [self._bodies[(self._asked + n) % len(self._bodies)] for n in range(len(times))]
        self._asked += len(times)
        async with Client(HOST, self._port) as client:
            answers = await open_loop(client, _RECOMMEND, bodies, times)
        _require_taken(statuses(answers), OK, *REFUSED)
        return answers

    async def _beside(
        self, stream: Callable[[Client, asyncio.Future[list[Answer]]], Any], number: int
    ) -> tuple[list[Answer], float]:
        asked = asyncio.create_task(self._recommended(self._plan.seconds / self._plan.rounds, number))
        began = perf_counter()
        async with Client(HOST, self._port) as client:
            batches = await stream(client, asked)
        seconds = perf_counter() - began
        return await asked, self._rows_a_second(batches, seconds)

    async def _paced(self, client: Client, asked: asyncio.Future[list[Answer]]) -> int:
        """Send the wanted rows a second for as long as is asked; how many batches of them were taken."""
        gap = self._plan.batch / self._plan.wanted
        count = max(1, round(self._plan.seconds / self._plan.rounds / gap))
        bodies = [_body(rows) for rows in islice(self._rows, count)]
        found = statuses(await open_loop(client, _EVENTS, bodies, [gap * n for n in range(count)]))
        _require_taken(found, OK, *REFUSED)
        return found.get(OK, 0)

    async def _flat_out(self, client: Client, asked: asyncio.Future[list[Answer]]) -> int:
        """One batch after the other until nobody asks any more; how many."""
        found: Counter[int] = Counter()
        while not asked.done():
            status, _ = await client.ask("POST", _EVENTS, _body(next(self._rows)))
            found[status] += 1
        _require_taken(found)
        return found[OK]

    # What is told

    def _rows_section(self, ways: dict[str, list[float]], loads: tuple[float, float, float]) -> Section:
        floor, plan = median(ways["the database alone"]), self._plan
        rows = tuple(
            {"way": name, "rows/s": median(own), "least": min(own), "most": max(own), "x floor": median(own) / floor}
            for name, own in ways.items()
        )
        notes = (
            f"batches of {plan.batch:,} rows, each one transaction; {plan.rounds} rounds in turns",
            f"alone, {plan.clients} clients stream; beside recommendations, one does",
            f"alone, sending took {self._asking.share:.0%} of a processor, which on few cores the server misses",
            f"load average {loads[0]:.1f} before, {os.getloadavg()[0]:.1f} after",
        )
        return Section("rows into a running server", rows, notes)

    def _latencies(self, loads: dict[str, list[Answer]]) -> Section:
        told = ("rate/s", "p50 ms", "p99 ms", "most ms", "sent late p99 ms")
        rows = []
        for name, answers in loads.items():
            row = latency_row(name, self._plan.rate, 0.0, _answered(answers))
            refused = len(answers) - row["requests"]
            rows.append(
                {"load": name, "answered": row["requests"], "refused": refused} | {one: row[one] for one in told}
            )
        notes = (
            f"POST /recommend of people of whom something is held, top_k {_TOP_K}; milliseconds from when a request was due",
            "of answers alone; whoever is refused (429, 503) hears it at once",
        )
        return Section("recommendations", tuple(rows), notes)

    def _goals(
        self, rows: list[float], paced_rows: list[float], alone: list[Answer], paced: list[Answer]
    ) -> list[Goal]:
        without, during = _p99(alone), _p99(paced)
        refused = len(alone) + len(paced) > len(_answered(alone)) + len(_answered(paced))
        wanted = self._plan.wanted
        return [
            Goal(f"rows a second over HTTP, alone: at least {wanted:,.0f}", wanted, median(rows)),
            Goal("rows a second taken beside recommendations: 95% of it", 0.95 * wanted, median(paced_rows)),
            Goal(
                "p99 alone of p99 beside them, and nobody refused: more than a half",
                0.5,
                0.0 if refused else without / during,
            ),
        ]


def _answered(answers: Sequence[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status == OK]


def _p99(answers: Sequence[Answer]) -> float:
    found = Latencies.of([answer.seconds for answer in _answered(answers)])
    return found.p99 or found.most or 0.0


def _wanted_by(person: str) -> bytes:
    return json.dumps({"user_id": person, "top_k": _TOP_K}).encode()


def _of_items(batches: Iterator[list[Row]], items: Sequence[str]) -> Iterator[list[Row]]:
    """The stream with items of this catalog."""
    for batch in batches:
        yield [(user, items[int(item.rpartition("-")[2])], liked, time, None) for user, item, liked, time, _ in batch]


def _body(rows: Sequence[Row]) -> bytes:
    said = [
        {"user_id": user, "item_id": item, "liked": liked, "timestamp": time} for user, item, liked, time, _ in rows
    ]
    return json.dumps({"interactions": said}).encode()


def _require_taken(found: Mapping[int, int], *expected: int) -> None:
    if set(found) - set(expected or (OK,)):
        raise ServingFailed(f"the server answered {dict(found)}; only {expected or OK} was expected")

"""People who leave at a steady rate: how much of an installation still answers, and when each of them is forgotten.

The server is a process of its own, asked over a real socket. What is masked is read from its ledger, many times a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from research.benchmarks.load import Client, Latencies
from research.benchmarks.report import Section
from research.benchmarks.serving import HOST, forget

_LOOK = 0.05  # seconds from one look at the ledger to the next


@dataclass(frozen=True, slots=True)
class Live:
    """The shares of adapters and of memories that may be used at a moment, from 0 to 1."""

    adapters: float
    memories: float


class SteadyDeletions:
    """One server, and people who are forgotten there, one every so many seconds, whether or not the one before is done."""

    def __init__(self, port: int, look: Callable[[], Live], apart: float) -> None:
        """`look` says what is live now; `apart` is the seconds between two deletions."""
        self._port = port
        self._look = look
        self._apart = apart

    def run(self, people: Sequence[str]) -> list[Section]:
        """The table. Raises ServingFailed where a deletion was refused or never completed."""
        return [asyncio.run(self._run(people))]

    async def _run(self, people: Sequence[str]) -> Section:
        looks: list[Live] = []
        watching = asyncio.create_task(self._watch(looks))
        async with Client(HOST, self._port) as client:
            leaving = []
            for person in people:
                leaving.append(asyncio.create_task(forget(client, person)))
                await asyncio.sleep(self._apart)
            within = len(looks)  # what comes after the last arrival is no steady state
            spans = await asyncio.gather(*leaving)
        watching.cancel()
        waited = Latencies.of([ended - began for began, ended in spans])
        row = _row(len(people), 60 / self._apart, looks[:within]) | {"p50 s": waited.p50, "p99 s": waited.p99}
        return Section("deletions at a steady rate", (row,), _NOTES)

    async def _watch(self, looks: list[Live]) -> None:
        while True:
            looks.append(await asyncio.to_thread(self._look))
            await asyncio.sleep(_LOOK)


def _row(deletions: int, rate: float, looks: Sequence[Live]) -> dict[str, Any]:
    return {
        "deletions": deletions,
        "a minute": rate,
        "adapters live": fmean(look.adapters for look in looks),
        "least": min(look.adapters for look in looks),
        "memories live": fmean(look.memories for look in looks),
        "least of them": min(look.memories for look in looks),
    }


_NOTES = (
    "live: share of the adapters, and of the memories, that may be used, mean over the time in which people leave",
    "seconds from a deletion's acceptance to its receipt",
)

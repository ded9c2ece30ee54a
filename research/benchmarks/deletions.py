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
_ARRIVALS = 1.0  # seconds after which rows of everybody come again, so that one full build follows the other


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

    def run(self, people: Sequence[str], arrive: Callable[[], object] | None = None) -> list[Section]:
        """The table. With `arrive`, which lets rows of everybody come, half of the people leave beside full builds.

        Raises ServingFailed where a deletion was refused or never completed.
        """
        if arrive is None:
            return [_section([asyncio.run(self._run("nothing", people, None))])]
        half = (len(people) + 1) // 2
        alone = asyncio.run(self._run("nothing", people[:half], None))
        return [_section([alone, asyncio.run(self._run("full builds", people[half:], arrive))])]

    async def _run(self, beside: str, people: Sequence[str], arrive: Callable[[], object] | None) -> dict[str, Any]:
        looks: list[Live] = []
        watching = asyncio.create_task(self._watch(looks))
        arriving = None if arrive is None else asyncio.create_task(_again_and_again(arrive))
        async with Client(HOST, self._port) as client:
            leaving = []
            for person in people:
                leaving.append(asyncio.create_task(forget(client, person)))
                await asyncio.sleep(self._apart)
            within = len(looks)  # what comes after the last arrival is no steady state
            spans = await asyncio.gather(*leaving)
        watching.cancel()
        if arriving is not None:
            arriving.cancel()
        waited = Latencies.of([ended - began for began, ended in spans])
        row = _row(len(people), 60 / self._apart, looks[:within])
        return {"beside": beside} | row | {"p50 s": waited.p50, "p99 s": waited.p99, "most s": waited.most}

    async def _watch(self, looks: list[Live]) -> None:
        while True:
            looks.append(await asyncio.to_thread(self._look))
            await asyncio.sleep(_LOOK)


async def _again_and_again(arrive: Callable[[], object]) -> None:
    while True:
        await asyncio.to_thread(arrive)
        await asyncio.sleep(_ARRIVALS)


def _section(rows: Sequence[dict[str, Any]]) -> Section:
    return Section("deletions at a steady rate", tuple(rows), _NOTES)


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

"""Ask at full speed from one address, and see how long another's answers take: python -m tests.attacks.greedy_client

Callers without keys are told apart by their addresses, so this is for a server on loopback that wants no key. The greedy one is
a process that takes only what the other and the server leave of the processors, as one on another machine would take nothing.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from time import perf_counter

import httpx

from tests.attacks.target import Figures, Target, run

ASKED = {"history": {"liked": ["Toy Story (1995)"]}, "candidates": [f"Film {number} (1995)" for number in range(10)]}
_GREEDY, _OTHER = "127.0.0.2", "127.0.0.3"


def greedy_client(target: Target, connections: int = 16, answers: int = 100, rounds: int = 4) -> Figures:
    """Milliseconds that one who asks again when answered waits for it, alone and beside the greedy one, in turns."""
    waited: dict[bool, list[float]] = {False: [], True: []}
    statuses, greedy = Counter[int](), Counter[int]()
    for number in range(2 * rounds):
        beside = number % 2 == 1
        with _greedy_one(target, connections if beside else 0) as asked:
            _ask(target, answers // rounds, waited[beside], statuses)
        greedy += asked
    alone, together = (_quantiles(waited[beside]) for beside in (False, True))
    return {
        "alone_ms": alone,
        "beside_ms": together,
        "p99_ratio": round(together["p99"] / alone["p99"], 2),
        "others": dict(statuses),
        "greedy": dict(greedy),
    }


def _ask(target: Target, answers: int, waited: list[float], statuses: Counter[int]) -> None:
    with _client(target, _OTHER) as client:
        for _ in range(answers):
            began = perf_counter()
            statuses[client.post("/recommend", json=ASKED).status_code] += 1
            waited.append(perf_counter() - began)


@contextmanager
def _greedy_one(target: Target, connections: int) -> Iterator[Counter[int]]:
    """One who asks over so many connections meanwhile; in the end, how often they were answered what."""
    statuses = Counter[int]()
    if not connections:
        yield statuses
        return
    context = multiprocessing.get_context("spawn")
    begun, stop, answered = context.Event(), context.Event(), context.SimpleQueue()
    process = context.Process(target=_be_greedy, args=(target, connections, begun, stop, answered))
    process.start()
    try:
        begun.wait(120)
        yield statuses
    finally:
        stop.set()
        statuses.update(answered.get())
        process.join()


def _be_greedy(
    target: Target, connections: int, begun: Event, stop: Event, answered: SimpleQueue[Counter[int]]
) -> None:
    os.nice(19)
    with ThreadPoolExecutor(connections) as pool:
        asked = [pool.submit(_ask_until, target, begun, stop) for _ in range(connections)]
        answered.put(sum((each.result() for each in asked), Counter[int]()))


def _ask_until(target: Target, begun: Event, stop: Event) -> Counter[int]:
    statuses = Counter[int]()
    with _client(target, _GREEDY) as client:
        while not stop.is_set():
            statuses[client.post("/recommend", json=ASKED).status_code] += 1
            begun.set()
    return statuses


def _client(target: Target, address: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://{target.host}:{target.port}",
        transport=httpx.HTTPTransport(local_address=address),
        timeout=120,
    )


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50": round(1e3 * ordered[len(ordered) // 2], 1),
        "p99": round(1e3 * ordered[len(ordered) * 99 // 100], 1),
    }


if __name__ == "__main__":
    run(greedy_client)

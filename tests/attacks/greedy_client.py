"""Ask at full speed from one address, and see how long another's answers take: python -m tests.attacks.greedy_client

Callers without keys are told apart by their addresses, so this is for a server on loopback that wants no key.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import httpx

from tests.attacks.target import Figures, Target, run

ASKED = {"history": {"liked": ["Toy Story (1995)"]}, "candidates": [f"Film {number} (1995)" for number in range(10)]}
_GREEDY, _OTHER = "127.0.0.2", "127.0.0.3"


def greedy_client(target: Target, connections: int = 16, answers: int = 100, rounds: int = 4) -> Figures:
    """Milliseconds that one who asks again when answered waits for it, alone and beside the greedy one, in turns."""
    waited: dict[bool, list[float]] = {False: [], True: []}
    statuses: dict[bool, Counter[int]] = {False: Counter(), True: Counter()}  # of the greedy one, and of the other
    for number in range(2 * rounds):
        beside, stop = number % 2 == 1, threading.Event()
        with ThreadPoolExecutor(connections) as pool:
            greedy = [pool.submit(_ask_until, target, stop) for _ in range(connections if beside else 0)]
            try:
                _ask(target, answers // rounds, waited[beside], statuses[True])
            finally:
                stop.set()
            statuses[False] += sum((asked.result() for asked in greedy), Counter())
    alone, together = (_quantiles(waited[beside]) for beside in (False, True))
    return {
        "alone_ms": alone,
        "beside_ms": together,
        "p99_ratio": round(together["p99"] / alone["p99"], 2),
        "others": dict(statuses[True]),
        "greedy": dict(statuses[False]),
    }


def _ask(target: Target, answers: int, waited: list[float], statuses: Counter[int]) -> None:
    with _client(target, _OTHER) as client:
        for _ in range(answers):
            began = perf_counter()
            statuses[client.post("/recommend", json=ASKED).status_code] += 1
            waited.append(perf_counter() - began)


def _ask_until(target: Target, stop: threading.Event) -> Counter[int]:
    statuses: Counter[int] = Counter()
    with _client(target, _GREEDY) as client:
        while not stop.is_set():
            statuses[client.post("/recommend", json=ASKED).status_code] += 1
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

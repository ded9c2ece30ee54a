"""Send one legal request that is as large as it may be, and see how long others wait: python -m tests.attacks.large_request"""

from __future__ import annotations

import threading
from time import perf_counter, sleep

from tests.attacks.target import Figures, Target, run

SMALL = {"history": {"liked": ["Toy Story (1995)"]}, "candidates": ["Heat (1995)"]}
LARGE = {
    "history": {"liked": ["Toy Story (1995)"]},
    "candidates": [f"{number} {'x z ' * 120}"[:490] for number in range(200)],
}


def large_request(target: Target) -> Figures:
    """The slowest answer that somebody else gets meanwhile."""
    alone = _slowest(target, 20)
    took: dict[str, float | int] = {}
    attacker = threading.Thread(target=_attack, args=(target, took))
    attacker.start()
    sleep(0.3)
    beside, answers = 0.0, 0
    while attacker.is_alive():
        beside, answers = max(beside, _slowest(target, 1)), answers + 1
    attacker.join()
    return {"others_alone_s": round(alone, 3), "others_beside_s": round(beside, 3), "answers": answers, **took}


def _attack(target: Target, took: dict[str, float | int]) -> None:
    began = perf_counter()
    with target.client() as client:
        took["status"] = client.post("/recommend", json=LARGE).status_code
    took["seconds"] = round(perf_counter() - began, 2)


def _slowest(target: Target, times: int) -> float:
    slowest = 0.0
    with target.client() as client:
        for _ in range(times):
            began = perf_counter()
            client.post("/recommend", json=SMALL)
            slowest = max(slowest, perf_counter() - began)
    return slowest


if __name__ == "__main__":
    run(large_request)

"""Ask for the deletion of one person after the other, as fast as it goes: python -m tests.attacks.erase_everybody"""

from __future__ import annotations

from collections import Counter
from time import perf_counter

from tests.attacks.target import Figures, Target, run


def erase_everybody(target: Target, people: int = 400) -> Figures:
    """Deletions that one client gets accepted."""
    statuses: Counter[int] = Counter()
    began = perf_counter()
    with target.client() as client:
        for number in range(people):
            answer = client.post("/forget", json={"user_id": f"demo-{number:03}"})
            statuses[answer.status_code] += 1
    return {"asked": people, "seconds": round(perf_counter() - began, 1), "statuses": dict(statuses)}


if __name__ == "__main__":
    run(erase_everybody)

"""Name a title that pretends to be two, and one that spells a special token: python -m tests.attacks.two_titles"""

from __future__ import annotations

from typing import Any

import httpx

from tests.attacks.target import Figures, Target, run

CANDIDATES = ["Matrix, The (1999)", "Dirty Dancing (1987)"]


def two_titles(target: Target) -> Figures:
    """Scores of a history of one title that quotes two, beside those of a history of the two."""
    with target.client() as client:
        two = _scores(client, ["Alien (1979)", "Blade Runner (1982)"])
        one = _scores(client, ['Alien (1979)", "Blade Runner (1982)'])
        return {"two_titles": two, "one_that_quotes_two": one, "exactly_equal": one == two}


def _scores(client: httpx.Client, liked: list[str]) -> list[float]:
    body: dict[str, Any] = {"history": {"liked": liked}, "candidates": CANDIDATES}
    items = client.post("/recommend", json=body).json()["items"]
    return [item["score"] for item in sorted(items, key=lambda item: str(item["title"]))]


if __name__ == "__main__":
    run(two_titles)

"""Makes `service/bundled/demo_people.csv`: simulated people over the bundled catalog, for the demo. No real person's data.

python -m research.pretraining.demo_people service/bundled/demo_people.csv
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from research.pretraining.simulated import FILM_TASTES, ItemFeatures, PublicFacts, simulate_person

USERS = 400
FEWEST, MOST = 20, 80  # interactions per simulated user
SEED = 20_240
START = 1_700_000_000  # seconds since the epoch
STEP = 3_600
# As real people do, they see what they expect to like: without that nothing would be liked together more often than by chance.
DEMO_TASTES = replace(FILM_TASTES, genre_spread=1.0, seeking=3.0)
COLUMNS = ("user_id", "item_id", "liked", "timestamp")

Row = tuple[str, str, int, int]


def rows() -> Iterator[Row]:
    """The demo's interactions, as `COLUMNS` names their values."""
    text = resources.files("service.bundled").joinpath("demo_items.csv").read_text(encoding="utf-8")
    films = list(csv.DictReader(io.StringIO(text)))
    features = ItemFeatures.of(
        [
            PublicFacts(
                row["title"],
                int(row["year"]),
                tuple(row["genres"].split("|")),
                float(row["vote_average"]),
                float(row["vote_count"]),
            )
            for row in films
        ]
    )
    ids = [row["item_id"] for row in films]
    for number in range(1, USERS + 1):
        yield from _person(number, ids, features)


def written() -> str:
    """The file's content."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(rows())
    return text.getvalue()


def _person(number: int, ids: Sequence[str], features: ItemFeatures) -> Iterator[Row]:
    rng = np.random.default_rng((SEED, number))
    films, liked = simulate_person(features, DEMO_TASTES, int(rng.integers(FEWEST, MOST + 1)), rng)
    start = START + int(rng.integers(0, 365 * 24)) * STEP
    for step, (film, good) in enumerate(zip(films.tolist(), liked.tolist(), strict=True)):
        yield f"demo-{number:03}", ids[film], int(good), start + step * STEP


def main() -> None:
    """Read the arguments and write the people."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.parse_args().output.write_text(written(), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Makes `service/bundled/demo_items.csv`: the best known films of a public catalog (CC0), for the demo.

python -m research.pretraining.demo_catalog CORPUS_FOLDER service/bundled/demo_items.csv
"""

from __future__ import annotations

import argparse
import ast
import csv
import lzma
from pathlib import Path

from research.pretraining.films import FILM_FACTS, catalog_title

FILMS = 2_000
COLUMNS = ("title", "year", "genres", "vote_average", "vote_count")


def best_known(corpus: Path, count: int = FILMS) -> list[dict[str, str]]:
    """The `count` films with most votes, by title; of two films with one title and year, the better known."""
    with lzma.open(corpus / FILM_FACTS, "rt", encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["title"] and row["year"] and row["vote_count"]]
    rows.sort(key=lambda row: float(row["vote_count"]), reverse=True)
    films: dict[str, dict[str, str]] = {}
    for row in rows:
        film = _film(row)
        if film["genres"] and len(films) < count:
            films.setdefault(film["title"], film)
    return [films[title] for title in sorted(films)]


def write(films: list[dict[str, str]], path: Path) -> None:
    """Write the catalog as CSV, with ids in the order of titles."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("item_id", *COLUMNS))
        for number, film in enumerate(films, start=1):
            table.writerow((f"m{number:04}", *(film[column] for column in COLUMNS)))


def _film(row: dict[str, str]) -> dict[str, str]:
    year = int(float(row["year"]))
    return {
        "title": catalog_title(" ".join(row["title"].split()), year),
        "year": str(year),
        "genres": "|".join(ast.literal_eval(row["genres"])),
        "vote_average": row["vote_average"],
        "vote_count": str(int(float(row["vote_count"]))),
    }


def main() -> None:
    """Read the arguments and write the catalog."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder with the public catalogs")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    write(best_known(arguments.corpus), arguments.output)


if __name__ == "__main__":
    main()

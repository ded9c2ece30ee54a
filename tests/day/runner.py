"""A day of an online service with real people: the newest rows of MovieLens-100K stream in, in order of time.

    python -m tests.day.runner DIR --rows 50000

Prints what was done and both generations, that of the day and that of a clean import of the same rows without the forgotten;
exit code 1 if they differ, or if building again gives other bytes. With `--bundled` the model is the bundled one (hours on few
cores), else a tiny one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import transformers

from lethe_client import Client
from service.config import BUNDLED_MODEL
from service.data import importers
from service.data.importers import Dataset
from tests.conftest import save_tiny_model, tiny_tokenizer
from tests.e2e.conftest import QUICK, Installation
from tests.forks import Forks

from .story import Asked, Day, Plan, Told

SETTINGS = {**QUICK, "LETHE_MAX_SHARD_SIZE": "1000", "LETHE_EPOCHS": "1", "LETHE_LOG_LEVEL": "WARNING"}


PATIENCE = 3600.0  # seconds for a command: a build of many people, where many share a machine

Meets = Callable[[str], AbstractContextManager[Asked]]  # URL of a server -> a client of it


def live(
    dataset: Dataset, plan: Plan, model: Path, folder: Path, forks: Forks, meet: Meets = Client, **settings: str
) -> Told:
    """The whole day, from an empty installation to the clean one beside it. `meet` gives the client that asks."""
    made = {name: Installation(folder / name, model, forks, **SETTINGS | settings) for name in ("day", "clean")}
    for installation in made.values():
        installation.folder.mkdir()
        installation.patience = PATIENCE
    day = Day(made["day"], dataset, plan)
    day.dawn()
    with made["day"].serving_ready() as server, meet(f"http://127.0.0.1:{server.port}") as lethe:
        day.pass_by(lethe)
    day.evening(made["clean"])
    return day.told


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of MovieLens-100K")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bundled", action="store_true")
    given = parser.parse_args(arguments)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch, Forks() as forks:
        model = BUNDLED_MODEL if given.bundled else Path(scratch) / "model"
        if not given.bundled:
            save_tiny_model(model, "llama", tiny_tokenizer(480), {})
        dataset = importers.movielens(given.data)
        told = live(dataset, Plan(given.rows, seed=given.seed), model, Path(scratch), forks)
    print("\n".join(told.lines()))
    return 0 if told.generation == told.clean_generation and "byte for byte" in told.verified else 1


if __name__ == "__main__":
    sys.exit(main())

"""`lethe evaluate ranking` from the command line, on a tiny model and simulated people."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from research.evaluation.ranking.lethe import ROWS
from research.evaluation.ranking.results import Ranking
from service.entrypoints.commands.main import app
from service.errors import ImportRefused, InvalidSetting

pytestmark = pytest.mark.thorough

PEOPLE, FILMS = 30, 24
OPTIONS = [
    *("--dataset", "table", "--noun", "film", "--peers", "popularity,itemknn", "--max-shard-size", "60"),
    *("--lora-rank", "2", "--epochs", "1", "--samples-per-user", "2", "--history-length", "3", "--top-n", "5"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, chance = tmp_path_factory.mktemp("films"), random.Random(0)
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["item_id", "title"], *([f"f{n}", f"Film {n} (1990)"] for n in range(FILMS))])
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "liked", "timestamp"])
        for person in range(PEOPLE):
            for when, film in enumerate(chance.sample(range(FILMS), 12)):
                writer.writerow([f"p{person}", f"f{film}", chance.randrange(2), when])
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, tiny_models: Callable[..., Path]) -> Callable[..., Result]:
    def run(*options: str) -> Result:
        arguments = ["evaluate", "ranking", str(folder), "--model", str(tiny_models("llama")), *OPTIONS, *options]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done

    return run


@pytest.fixture(scope="module")
def place(run: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a first run leaves."""
    place = tmp_path_factory.mktemp("ranking") / "found"
    run("--out", str(place))
    return place


def test_results_and_report_are_left_in_the_folder(place: Path, folder: Path) -> None:
    found = Ranking.from_json(json.loads((place / "results.json").read_text()))
    assert found.dataset == folder.name
    assert [row.method for row in found.rows] == ["popularity", "itemknn", *ROWS]
    assert found.settings["lora_rank"] == 2
    assert found.machine["cores"]
    report = (place / "report.html").read_text()
    assert found.command in report
    assert "lethe evaluate ranking DIR --dataset table" in found.command
    assert str(folder) not in report


def test_a_second_run_computes_nothing_and_can_be_read_by_people(run: Callable[..., Result], place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place / "cells").iterdir()}
    shown = run("--out", str(place)).stdout
    assert {path: path.stat().st_mtime_ns for path in (place / "cells").iterdir()} == before
    assert all(word in shown for word in ("NDCG@10", "recall@100", "coverage@10", "forget a person s", *ROWS))
    assert "…" not in shown


def test_settings_can_be_chosen_without_the_test_rows(run: Callable[..., Result], place: Path, tmp_path: Path) -> None:
    options = ("--on-validation", "--likes-only", "--people", "9", "--peers", "", "--json", "--out", str(tmp_path))
    found = json.loads(run(*options).stdout)
    assert found["variant"] == {"likes only": True, "people": 9, "on validation": True}
    assert found["counts"]["people tested"] == 9
    tested = json.loads((place / "results.json").read_text())["counts"]
    assert found["counts"]["training rows"] < tested["training rows"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--dataset", "movielens-1m"], ImportRefused),
        (["--dataset", "goodbooks"], ImportRefused),
        (["--dataset", "table", "--peers", "popularity,oracle"], InvalidSetting),
        (["--dataset", "table", "--out", "/dev/null/place"], InvalidSetting),
    ],
)
def test_what_cannot_be_done_is_refused(
    folder: Path, tmp_path: Path, tiny_models: Callable[..., Path], options: list[str], error: type[Exception]
) -> None:
    arguments = ["evaluate", "ranking", str(folder), "--model", str(tiny_models("llama")), "--out", str(tmp_path)]
    refused = CliRunner().invoke(app, [*arguments, *options])
    assert isinstance(refused.exception, error)

"""`lethe evaluate unlearning` from the command line, on a tiny model and a tiny table."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from research.evaluation.unlearning.results import UnlearningComparison
from service.entrypoints.commands.main import app
from service.errors import ImportRefused, InvalidSetting

pytestmark = pytest.mark.thorough

PEOPLE, FILMS, EACH = 16, 24, 11
METHODS = ["retrain", "neggrad", "e2urec"]
OPTIONS = [
    *("--dataset", "table", "--noun", "film", "--methods", ",".join(METHODS), "--seeds", "1", "--seed", "7"),
    *(
        "--lora-rank",
        "2",
        "--epochs",
        "1",
        "--history-length",
        "3",
        "--relearning-steps",
        "2",
        "--build-processes",
        "1",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of `lethe import table`, of people who like at random."""
    folder, chance = tmp_path_factory.mktemp("films"), random.Random(0)
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["item_id", "title"], *([f"f{n}", f"Film {n} (1990)"] for n in range(FILMS))])
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "liked", "timestamp"])
        for person in range(PEOPLE):
            for when, film in enumerate(chance.sample(range(FILMS), EACH)):
                writer.writerow([f"somebody-{person}", f"f{film}", chance.randrange(2), 100 * when + person])
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, tiny_models: Callable[..., Path]) -> Callable[..., Result]:
    def run(*options: str) -> Result:
        arguments = ["evaluate", "unlearning", str(folder), "--model", str(tiny_models("llama")), *OPTIONS, *options]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done

    return run


@pytest.fixture(scope="module")
def place(run: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a first run leaves."""
    place = tmp_path_factory.mktemp("unlearning") / "found"
    run("--out", str(place))
    return place


def test_results_and_report_are_left_in_the_folder_and_name_nobody(place: Path, folder: Path) -> None:
    found = UnlearningComparison.from_json(json.loads((place / "results.json").read_text()))
    assert (found.dataset, found.seeds) == (folder.name, (7,))
    assert [one.method for one in found.measured] == METHODS
    assert {name: found.split[name] for name in ("training", "validation", "test")} == {
        "training": 96,
        "validation": 32,
        "test": 32,
    }
    assert found.forgotten["people"] == 3
    report = (place / "report.html").read_text()
    assert "lethe evaluate unlearning DIR --dataset table --methods retrain,neggrad,e2urec" in report
    assert str(folder) not in report
    contents = [path.read_bytes() for path in place.rglob("*") if path.is_file()]
    assert not any(b"somebody-" in content for content in contents)


def test_a_second_run_finds_everything_and_people_can_read_the_tables(run: Callable[..., Result], place: Path) -> None:
    before: dict[str, Any] = json.loads((place / "results.json").read_text())
    models = {path: path.stat().st_mtime_ns for path in (place / "models").iterdir()}
    shown = run("--out", str(place)).stdout
    again: dict[str, Any] = json.loads((place / "results.json").read_text())
    assert again | {"date": None} == before | {"date": None}
    assert {path: path.stat().st_mtime_ns for path in (place / "models").iterdir()} == models
    assert all(name in shown for name in ("Retrain", "NegGrad", "E2URec", "report.html"))
    assert f"{before['measured'][2]['auc']:.4f}" in shown
    assert "…" not in shown


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--dataset", "movielens-1m"], ImportRefused),
        (["--dataset", "goodreads"], ImportRefused),
        (["--dataset", "table", "--methods", "lethe,oracle"], InvalidSetting),
        (["--dataset", "table", "--stream", "99"], InvalidSetting),
        (["--dataset", "table", "--samples", "3"], ImportRefused),
        (["--dataset", "table", "--out", "/dev/null/place"], InvalidSetting),
    ],
)
def test_what_cannot_be_done_is_refused(
    folder: Path, tmp_path: Path, tiny_models: Callable[..., Path], options: list[str], error: type[Exception]
) -> None:
    arguments = ["evaluate", "unlearning", str(folder), "--model", str(tiny_models("llama")), "--out", str(tmp_path)]
    refused = CliRunner().invoke(app, [*arguments, *options])
    assert isinstance(refused.exception, error)

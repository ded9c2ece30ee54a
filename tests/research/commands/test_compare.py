"""`lethe evaluate compare` from the command line, on a tiny model and simulated people."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from research.commands.compare import goes_on_later
from research.evaluation.comparison.results import Comparison
from service.entrypoints.commands.main import app
from service.errors import ImportRefused, InvalidSetting

pytestmark = pytest.mark.thorough

PEOPLE, FILMS = 60, 24
METHODS = ["retraining", "like-share", "logistic"]  # the quick ones: what a method does is not asked here
OPTIONS = [
    *("--dataset", "table", "--noun", "film", "--methods", ",".join(METHODS), "--seeds", "2", "--seed", "7"),
    *("--training-samples", "40", "--no-studies", "--max-shard-size", "24", "--lora-rank", "2"),
    *("--epochs", "1", "--samples-per-user", "3", "--history-length", "5", "--top-n", "10", "--build-processes", "2"),
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
            for when, film in enumerate(chance.sample(range(FILMS), 6)):
                writer.writerow([f"p{person}", f"f{film}", chance.randrange(2), when])
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, tiny_models: Callable[..., Path]) -> Callable[..., Result]:
    def run(*options: str) -> Result:
        arguments = ["evaluate", "compare", str(folder), "--model", str(tiny_models("llama")), *OPTIONS, *options]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done

    return run


@pytest.fixture(scope="module")
def place(run: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a first run leaves."""
    place = tmp_path_factory.mktemp("comparison") / "found"
    run("--out", str(place))
    return place


def test_results_and_report_are_left_in_the_folder(place: Path, folder: Path) -> None:
    found = Comparison.from_json(json.loads((place / "results.json").read_text()))
    assert found.dataset == folder.name
    assert found.seeds == (7, 8)
    assert {(each.method, each.seed) for each in found.measured} == {(m, s) for m in METHODS for s in (7, 8)}
    assert found.split["training"] == 40
    assert found.settings["lora_rank"] == 2
    assert found.studies == ()
    report = (place / "report.html").read_text()
    assert all(f"{each:,}" in report for each in found.split.values())


def test_a_report_says_how_to_get_it_again_and_no_folder_of_this_machine(place: Path, folder: Path) -> None:
    report = (place / "report.html").read_text()
    command = next(line for line in report.splitlines() if "lethe evaluate compare" in line)
    assert "lethe evaluate compare DIR --dataset table --methods retraining,like-share,logistic" in command
    assert "--model DIR" in command
    assert "--no-studies" in command
    assert "--out" not in command
    assert str(folder) not in report


def test_a_second_run_finds_everything_and_says_the_same(run: Callable[..., Result], place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place / "store").rglob("*") if path.is_file()}
    assert before
    results = json.loads((place / "results.json").read_text())
    again = json.loads(run("--out", str(place), "--json").stdout)
    results.pop("date")
    again.pop("date")  # of the run
    assert again == results
    assert {path: path.stat().st_mtime_ns for path in (place / "store").rglob("*") if path.is_file()} == before


def test_the_table_can_be_read_by_people(run: Callable[..., Result], place: Path) -> None:
    shown = run("--out", str(place)).stdout
    found = json.loads((place / "results.json").read_text())
    mean = sum(each["auc"] for each in found["measured"] if each["method"] == "retraining") / 2
    assert f"{mean:.4f}" in shown
    assert "Retraining" in shown
    assert "report.html" in shown
    assert "…" not in shown


def test_settings_can_be_chosen_without_the_test_samples(
    run: Callable[..., Result], folder: Path, tmp_path: Path
) -> None:
    found = json.loads(run("--on-validation", "--methods", "like-share", "--out", str(tmp_path), "--json").stdout)
    assert found["dataset"] == f"{folder.name} (validation)"
    assert found["split"]["test"] == 0 < found["split"]["scored validation"]
    assert "--on-validation" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--dataset", "movielens-100k"], ImportRefused),
        (["--dataset", "bookcrossing"], ImportRefused),
        (["--dataset", "table", "--methods", "lethe,oracle"], InvalidSetting),
        (["--dataset", "table", "--training-samples", "999999"], InvalidSetting),
        (["--dataset", "table", "--out", "/dev/null/place"], InvalidSetting),
    ],
)
def test_what_cannot_be_done_is_refused(
    folder: Path, tmp_path: Path, tiny_models: Callable[..., Path], options: list[str], error: type[Exception]
) -> None:
    arguments = ["evaluate", "compare", str(folder), "--model", str(tiny_models("llama")), "--out", str(tmp_path)]
    refused = CliRunner().invoke(app, [*arguments, *options])
    assert isinstance(refused.exception, error)


def test_whoever_interrupts_is_told_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped, goes_on_later():
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    assert "goes on" in capsys.readouterr().err

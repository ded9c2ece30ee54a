"""`lethe evaluate unlearning`: approximate methods beside retraining and Lethe, in a folder with which a later run goes on."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from research.benchmarks.report import machine
from research.commands.compare import as_typed, goes_on_later, made_folder
from research.commands.scratch import scratch_home, stated
from research.commands.tables import print_table
from research.evaluation.comparison.laboratory import Laboratory
from research.evaluation.unlearning import report, splits, tables
from research.evaluation.unlearning.compare import Run, Wanted, compare_unlearning
from research.evaluation.unlearning.learner import CausalLearner
from research.evaluation.unlearning.methods import DEFAULT_ROWS
from research.evaluation.unlearning.results import UnlearningComparison
from service.building.progress import Progress
from service.entrypoints import building
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import print_report, progress_for_stderr
from service.entrypoints.commands.options import BUILD_SETTINGS, JsonOption, with_settings
from service.entrypoints.devices import model_of
from service.llm.frozen import FrozenModel

_MAX_SHARD_SIZE = 128  # of Lethe's row, unless it is given: gives shards to choose among even in a small draw


class UnlearningData(StrEnum):
    """What `--dataset` may name."""

    MOVIELENS_1M = "movielens-1m"
    GOODREADS = "goodreads"
    MOVIELENS_100K = "movielens-100k"
    TABLE = "table"


@with_settings(BUILD_SETTINGS)
def evaluate_unlearning(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(help="Files of the data set (goodreads: goodbooks-10k), or a table's folder")
    ],
    given: dict[str, Any],
    dataset: Annotated[UnlearningData, typer.Option(help="What the folder holds")],
    methods: Annotated[str, typer.Option(help="Comma-separated rows")] = ",".join(DEFAULT_ROWS),
    seeds: Annotated[int, typer.Option(min=1, help="How many, counted up from --seed")] = 3,
    samples: Annotated[
        int, typer.Option(min=1, help="At most so many samples, of whole people; the paper has 100,000")
    ] = splits.SAMPLES,
    relearning_steps: Annotated[
        int, typer.Option(min=0, help="Training steps tried at most until D_f is known again; 0: none")
    ] = 50,
    stream: Annotated[int, typer.Option(min=0, help="Deletions of one person each, one after another; 0: none")] = 0,
    stream_checks: Annotated[
        int, typer.Option(min=1, help="Deletions of the stream after which a retrained model is made to compare with")
    ] = 8,
    item_type: Annotated[
        str, typer.Option("--item-type", "--noun", help="With --dataset table: what an item is called in prompts")
    ] = "item",
    liked_above: Annotated[
        float | None, typer.Option(help="With --dataset table: a rating above this counts as liked")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of results and models; default: lethe-unlearning-DATASET")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """E2URec and its rivals (Wang et al. 2024), retraining and Lethe: a fifth of the people forget their training samples.

    Settings are chosen on validation samples; --epochs is the most that are tried. Leaves results.json and report.html in the
    folder. Run again, it computes only what is missing.
    """
    with goes_on_later(), scratch_home({"max_shard_size": _MAX_SHARD_SIZE} | stated(given)) as opened:
        torch.set_num_threads(opened.settings.scoring_threads())
        first = opened.settings.seed
        rows = tuple(name.strip() for name in methods.split(","))
        wanted = Wanted(rows, tuple(range(first, first + seeds)), relearning_steps, stream, stream_checks)
        wanted.check()
        history = opened.settings.build_config().history_length
        cut = splits.read(dataset, folder, history, item_type, liked_above).drawn(samples).cut()
        place = made_folder(out or Path(f"lethe-unlearning-{cut.lessons.dataset}"))
        with progress_for_stderr() as progress:
            run = _run(opened, cut, wanted, place, progress)
            found = compare_unlearning(run, {name: str(value) for name, value in machine().items()})
    (place / "results.json").write_text(json.dumps(found.to_json(), indent=2) + "\n", "utf-8")
    (place / "report.html").write_text(report.render(found, as_typed(context, "lethe evaluate unlearning")), "utf-8")
    _print(found, place, json_)


def _run(opened: Home, cut: splits.Cut, wanted: Wanted, place: Path, progress: Progress) -> Run:
    spec, config = model_of(opened.settings), opened.settings.build_config()
    laboratory = Laboratory(
        frozen=FrozenModel.load(spec),
        process_pool=building.process_pool(opened),
        config=config,
        environment=building.environment(opened),
        facts={},
    )
    return Run(cut, laboratory, CausalLearner(spec, config), wanted, place, progress)


def _print(found: UnlearningComparison, place: Path, json_: bool) -> None:
    if json_:
        print_report(found.to_json(), json_)
        return
    for title, content in tables.all_of(found).items():
        if content.rows:
            print_table(title, [dict(zip(content.columns, row, strict=True)) for row in content.rows])
    typer.echo(f"results.json and report.html are in {place}")

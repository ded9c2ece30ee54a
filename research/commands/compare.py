"""`lethe evaluate compare`: the papers' methods and ours on one data set, in a folder with which a later run goes on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from research.commands.scratch import scratch_home, stated
from research.commands.tables import print_table
from research.evaluation.comparison import report, splits, tables
from research.evaluation.comparison.compare import compare
from research.evaluation.comparison.facts import PublicItemFacts
from research.evaluation.comparison.facts import public_facts as read_public_facts
from research.evaluation.comparison.laboratory import Laboratory
from research.evaluation.comparison.methods import METHODS
from research.evaluation.comparison.methods.lethe import MAX_SHARD_SIZE
from research.evaluation.comparison.results import Comparison
from service.entrypoints import building
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import err, print_report, progress_for_stderr
from service.entrypoints.commands.options import BUILD_SETTINGS, JsonOption, with_settings
from service.entrypoints.devices import served_model
from service.errors import InvalidSetting
from service.llm.frozen import FrozenModel

_NO_FIGURE = ("out", "json_", "build_processes")  # options that change none
_INTERRUPTED = 130


class Dataset(StrEnum):
    """What `--dataset` may name."""

    MOVIELENS_100K = "movielens-100k"
    BOOKCROSSING = "bookcrossing"
    TABLE = "table"


@with_settings(BUILD_SETTINGS)
def compare_methods(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="MovieLens 100K, TALLRec's book prompts, or a table's folder")],
    given: dict[str, Any],
    dataset: Annotated[Dataset, typer.Option(help="What the folder holds")],
    methods: Annotated[str, typer.Option(help="Comma-separated")] = ",".join(METHODS),
    seeds: Annotated[int, typer.Option(min=1, help="How many, counted up from --seed")] = 5,
    training_samples: Annotated[int, typer.Option(min=1, help="Drawn for each seed")] = 1024,
    public_facts: Annotated[
        Path | None, typer.Option(help="Folder of public votes, which `logistic` reads; default: it does without")
    ] = None,
    item_type: Annotated[
        str, typer.Option("--item-type", "--noun", help="With --dataset table: what an item is called in prompts")
    ] = "item",
    liked_above: Annotated[
        float | None, typer.Option(help="With --dataset table: a rating above this counts as liked")
    ] = None,
    studies: Annotated[
        bool, typer.Option(help="Also studies: the paper's of partition, weights, shard size and time, and of routing")
    ] = True,
    on_validation: Annotated[
        bool, typer.Option("--on-validation", help="Score half of the validation users instead, to choose settings by")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of results and adapters; default: lethe-comparison-DATASET[-validation]")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """The papers' methods, two plain baselines and Lethe, on one frozen model and the same samples.

    Leaves results.json and report.html in the folder. Run again, it computes only what is missing.
    """
    defaults = {"max_shard_size": MAX_SHARD_SIZE}
    with goes_on_later(), scratch_home(defaults | stated(given)) as opened, progress_for_stderr() as progress:
        split = _split(dataset, folder, item_type, liked_above)
        place = made_folder(out or Path(f"lethe-comparison-{split.dataset}{'-validation' if on_validation else ''}"))
        found = compare(
            split.validation_run() if on_validation else split,
            _laboratory(opened, read_public_facts(public_facts, split.items)),
            [name.strip() for name in methods.split(",")],
            range(opened.settings.seed, opened.settings.seed + seeds),
            training_samples,
            place,
            progress,
            studies,
        )
    (place / "results.json").write_text(json.dumps(found.to_json(), indent=2) + "\n", "utf-8")
    (place / "report.html").write_text(report.render(found, as_typed(context, "lethe evaluate compare")), "utf-8")
    _print(found, place, json_)


@contextmanager
def goes_on_later() -> Iterator[None]:
    """Ctrl-C ends the command with what a shell expects, and with a word on what is not lost."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("interrupted; what is finished is kept, and the same command goes on from there")
        raise typer.Exit(_INTERRUPTED) from None


def _split(dataset: Dataset, folder: Path, item_type: str, liked_above: float | None) -> splits.Split:
    if dataset is Dataset.TABLE:
        return splits.table(folder, item_type, liked_above)
    return splits.movielens_100k(folder) if dataset is Dataset.MOVIELENS_100K else splits.bookcrossing(folder)


def made_folder(place: Path) -> Path:
    """The folder, made if it was not there. Raises InvalidSetting where it cannot be."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(f"--out cannot be used ({error.strerror}); name a folder that may be written") from error
    return place


def _laboratory(opened: Home, facts: PublicItemFacts) -> Laboratory:
    frozen = FrozenModel.load(served_model(opened))
    return Laboratory(
        frozen=frozen,
        process_pool=building.process_pool(opened),
        config=opened.settings.build_config(),
        environment=building.environment(opened),
        facts=facts,
    )


def as_typed(context: typer.Context, command: str) -> str:
    """The command with which anybody gets this report: without folders of this machine, and without what changes no figure."""
    words = []
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        source = context.get_parameter_source(name)
        if name in _NO_FIGURE or source is None or source.name != "COMMANDLINE":
            continue
        shown = "DIR" if _is_folder(parameter.type.name, name, value) else shlex.quote(str(value))
        option = next((word for word in parameter.opts if word.startswith("--")), None)
        if isinstance(value, bool):
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            words.append(f"{option} {shown}" if option else shown)
    return " ".join([command, *words])


def _is_folder(kind: str, name: str, value: object) -> bool:
    # A model may also be named by its hub id, which anybody can use.
    return kind in ("path", "directory", "file") or (name == "model" and Path(str(value)).is_dir())


def _print(found: Comparison, place: Path, json_: bool) -> None:
    if json_:
        print_report(found.to_json(), json_)
        return
    for title, content in (
        ("quality", tables.quality(found)),
        ("cost", tables.cost(found)),
        ("studies", tables.studies(found)),
    ):
        if content.rows:
            print_table(title, [dict(zip(content.columns, row, strict=True)) for row in content.rows])
    typer.echo(f"results.json and report.html are in {place}")

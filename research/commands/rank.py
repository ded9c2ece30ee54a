"""`lethe evaluate ranking`: what a user of `POST /recommend` sees, beside peers, in a folder with which a later run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from research.benchmarks.report import machine
from research.commands.compare import (
    as_typed,
    goes_on_later,
    made_folder,
)
from research.commands.scratch import scratch_home, stated
from research.commands.tables import print_table
from research.evaluation.comparison.notebook import Notebook
from research.evaluation.comparison.tables import Rows
from research.evaluation.ranking import protocols, report, tables
from research.evaluation.ranking.contest import Contest
from research.evaluation.ranking.datasets import read
from research.evaluation.ranking.lethe import Workshop
from research.evaluation.ranking.peers.literature import PEERS
from research.evaluation.ranking.peers.peer import Peer
from research.evaluation.ranking.protocols import HeldOut, Ratings
from research.evaluation.ranking.rank import Circumstances, Wanted, rank
from research.evaluation.ranking.results import (
    BY_HISTORY,
    BY_LIKES,
    EVERYBODY,
    MASKED,
    NEW_ITEMS,
    STRANGERS,
    Ranking,
)
from service.entrypoints import building
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import print_report, progress_for_stderr
from service.entrypoints.commands.options import BUILD_SETTINGS, JsonOption, with_settings
from service.entrypoints.devices import served_model
from service.errors import InvalidSetting
from service.llm.frozen import FrozenModel

_ALL = "all"


class RankedData(StrEnum):
    """What `--dataset` may name."""

    MOVIELENS_100K = "movielens-100k"
    MOVIELENS_1M = "movielens-1m"
    MOVIELENS_LATEST = "movielens-latest"
    GOODBOOKS = "goodbooks"
    TABLE = "table"


class Protocol(StrEnum):
    """What `--protocol` may name."""

    LAST_TENTH = protocols.LAST_TENTH
    LEAVE_ONE_OUT = protocols.LEAVE_ONE_OUT
    TIME_CUT = protocols.TIME_CUT


@with_settings(BUILD_SETTINGS)
def rank_methods(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Files of the data set, or a table's folder")],
    given: dict[str, Any],
    dataset: Annotated[RankedData, typer.Option(help="What the folder holds")],
    protocol: Annotated[Protocol, typer.Option(help="What is held out")] = Protocol.LAST_TENTH,
    history: Annotated[
        int | None, typer.Option(min=0, help="Ask a fifth of the people only, of whom so many newest rows are known")
    ] = None,
    likes_only: Annotated[
        bool, typer.Option("--likes-only", help="Leave dislikes out, as if nobody had rated")
    ] = False,
    people: Annotated[int | None, typer.Option(min=1, help="People asked for; default: all who are tested")] = None,
    peers: Annotated[str, typer.Option(help="Comma-separated; `all`, or nothing for none")] = _ALL,
    new_items: Annotated[int, typer.Option(min=0, help="Draws of a fifth of the catalog that nobody knows yet")] = 0,
    strangers: Annotated[
        bool,
        typer.Option("--strangers", help="Also ask for a fifth of all people as if never seen, by short histories"),
    ] = False,
    owed: Annotated[
        bool, typer.Option("--owed", help="Also ask while 1 to 16 deletions are owed and nothing is built again")
    ] = False,
    on_validation: Annotated[
        bool, typer.Option("--on-validation", help="Cut the training rows again and rank there, to choose settings by")
    ] = False,
    item_type: Annotated[
        str, typer.Option("--item-type", "--noun", help="With --dataset table: what an item is called in prompts")
    ] = "item",
    liked_above: Annotated[
        float | None, typer.Option(help="With --dataset table: a rating above this counts as liked")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of results; default: lethe-ranking-DATASET-PROTOCOL")] = None,
    json_: JsonOption = False,
) -> None:
    """Lethe as it is served beside recommenders of the literature, each tuned where no test row is: quality, speed, forgetting.

    Leaves results.json and report.html in the folder. Run again, it computes only what is missing.
    """
    entering = _peers(peers)
    variant = {"history": history, "likes only": likes_only, "people": people, "on validation": on_validation}
    with goes_on_later(), scratch_home(stated(given)) as opened, progress_for_stderr() as progress:
        torch.set_num_threads(opened.settings.scoring_threads())
        ratings, split = _split(read(dataset, folder, item_type, liked_above), protocol, variant)
        place = made_folder(out or Path(f"lethe-ranking-{split.dataset}-{protocol}"))
        contest = Contest(ratings, split, _workshop(opened), Notebook(place / "cells"), progress)
        wanted = Wanted(new_items, strangers, owed)
        found = rank(contest, entering, wanted, _circumstances(context, variant))
    _write(found, place)
    _print(found, place, json_)


def _circumstances(context: typer.Context, variant: Mapping[str, Any]) -> Circumstances:
    return Circumstances(
        {name: value for name, value in variant.items() if value is not None and value is not False},
        {name: str(value) for name, value in machine().items()},
        as_typed(context, "lethe evaluate ranking"),
    )


def _write(found: Ranking, place: Path) -> None:
    (place / "results.json").write_text(json.dumps(found.to_json(), indent=2) + "\n", "utf-8")
    (place / "report.html").write_text(report.render(found), "utf-8")


def _peers(names: str) -> list[Peer]:
    wanted = list(PEERS) if names == _ALL else [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in PEERS]
    if unknown:
        raise InvalidSetting(f"no peer is named {', '.join(map(repr, unknown))}; there are {', '.join(PEERS)}")
    return [PEERS[name] for name in wanted]


def _split(ratings: Ratings, protocol: str, variant: Mapping[str, Any]) -> tuple[Ratings, HeldOut]:
    """The ratings that experiments may look at, and what is held out of them."""
    if variant["likes only"]:
        ratings = ratings.likes_only()
    split = protocols.cut(ratings, protocol)
    if variant["on validation"]:
        ratings, split = replace(ratings, rows=split.train), split.for_tuning()
    if variant["history"] is not None:
        split = split.with_short_histories(variant["history"])
    if variant["people"] is not None:
        split = split.drawn(variant["people"])
    return ratings, split


def _workshop(opened: Home) -> Workshop:
    frozen = FrozenModel.load(served_model(opened))
    return Workshop(frozen, building.process_pool(opened), opened.settings.build_config(), building.environment(opened))


def _print(found: Ranking, place: Path, json_: bool) -> None:
    if json_:
        print_report(found.to_json(), json_)
        return
    _print_rows("quality", tables.quality(found))
    _print_rows("what of the catalog is shown", tables.breadth(found))
    _print_rows("cost", tables.cost(found))
    for part in (EVERYBODY, BY_HISTORY, BY_LIKES, STRANGERS, NEW_ITEMS, MASKED):
        _print_rows(part, tables.outcomes(found.part(part)))
    typer.echo(f"results.json and report.html are in {place}")


def _print_rows(title: str, content: Rows) -> None:
    if content.rows:
        print_table(title, [dict(zip(content.columns, row, strict=True)) for row in content.rows])

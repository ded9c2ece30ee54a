"""`lethe import`: files -> ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.data import importers
from service.data.ledger import ImportCounts
from service.entrypoints.bootstrap import Home
from service.entrypoints.console import err
from service.entrypoints.options import HomeOption, open_home

import_app = typer.Typer(
    no_args_is_help=True, help="Read interactions into the ledger. Importing twice changes nothing."
)
RejectOption = Annotated[
    int, typer.Option(min=0, help="Malformed rows that are left out before the import is refused.")
]
ReturningOption = Annotated[bool, typer.Option(help="Take people back in who were forgotten.")]


@import_app.command("movielens")
def import_movielens(
    folder: Annotated[Path, typer.Argument(help="MovieLens 100K, 1M or latest; files may be packed as .xz or .gz")],
    home: HomeOption = None,
    max_rejected: RejectOption = 100,
    allow_returning: ReturningOption = False,
) -> None:
    """MovieLens: liked means a rating above 3."""
    _import(importers.movielens(folder, max_rejected), home, allow_returning)


@import_app.command("bookcrossing")
def import_bookcrossing(
    folder: Annotated[Path, typer.Argument(help="Book-Crossing's CSV files")],
    home: HomeOption = None,
    max_rejected: RejectOption = 100,
    allow_returning: ReturningOption = False,
) -> None:
    """Book-Crossing: liked means a rating above 5; rows without a rating are left out."""
    _import(importers.bookcrossing(folder, max_rejected), home, allow_returning)


@import_app.command("table")
def import_table(
    items: Annotated[Path | None, typer.Option(help="item_id, title; optional: year, genres, author")] = None,
    interactions: Annotated[Path | None, typer.Option(help="user_id, item_id, liked or rating, timestamp")] = None,
    liked_above: Annotated[float | None, typer.Option(help="A rating above this counts as liked.")] = None,
    noun: Annotated[str, typer.Option(help="What an item is called in prompts, e.g. movie, book, song")] = "item",
    home: HomeOption = None,
    max_rejected: RejectOption = 100,
    allow_returning: ReturningOption = False,
) -> None:
    """Your own data: CSV, JSONL or Parquet by file name, plain or packed."""
    _import(importers.table(items, interactions, liked_above, noun, max_rejected), home, allow_returning)


@import_app.command("demo")
def import_demo(home: HomeOption = None) -> None:
    """The bundled demo: 2,000 real movie titles and 400 simulated people."""
    _import(importers.demo(), home, allow_returning=False)


def import_demo_if_empty(opened: Home) -> None:
    """So that a first start has something to show."""
    if opened.ledger.counts().items == 0:
        demo = importers.demo()
        _take(opened, demo)


def _take(opened: Home, dataset: importers.Dataset, allow_returning: bool = False) -> ImportCounts:
    return opened.ledger.import_data(dataset.items, dataset.interactions, dataset.noun, allow_returning)


def _take_back(opened: Home, dataset: importers.Dataset) -> ImportCounts:
    with opened.tombstones.locked():
        # Before they are back: a crash in between must not have them forgotten again at the next start.
        opened.tombstones.remove(opened.ledger.tombstones_over(dataset.interactions))
        return _take(opened, dataset, allow_returning=True)


def _import(dataset: importers.Dataset, home: Path | None, allow_returning: bool) -> None:
    opened = open_home(home, {})
    counts = _take_back(opened, dataset) if allow_returning else _take(opened, dataset)
    for rejection in dataset.rejected:
        err.print(f"left out: {rejection.file}, line {rejection.line}: {rejection.reason}", markup=False)
    typer.echo(
        f"{counts.interactions:,} interactions, {counts.users:,} users, {counts.items:,} items "
        f"({counts.new_interactions:,} new interactions, {counts.changed_interactions:,} changed, "
        f"{counts.new_items:,} new items, {len(dataset.rejected):,} malformed rows left out, "
        f"{dataset.unknown_items:,} of unknown items, {counts.tombstoned:,} of forgotten people skipped)"
    )

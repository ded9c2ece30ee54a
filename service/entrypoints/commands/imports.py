"""`lethe import`: files -> ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from service.data import importers
from service.data.importers import Dataset, Limit, Terms
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import (
    BarProgress,
    LineProgress,
    err,
    progress_for_stderr,
)
from service.entrypoints.commands.options import HomeOption, open_home
from service.errors import ImportRefused
from service.ledger import ImportCounts, check_source

import_app = typer.Typer(
    no_args_is_help=True, help="Read interactions into the ledger. Importing twice changes nothing."
)
RejectOption = Annotated[
    str, typer.Option(help="Rows that may be left out before the import is refused: a share, as 1%, or a number.")
]
ReturningOption = Annotated[bool, typer.Option(help="Take people back in who were forgotten.")]
ImplicitOption = Annotated[bool, typer.Option("--implicit", help="Take every row as a like: plays, clicks, purchases.")]
CreateOption = Annotated[
    bool,
    typer.Option("--create-items", help="Make the items that no catalog row has; their ids are their titles."),
]
ColumnOption = Annotated[
    list[str] | None, typer.Option("--column", help="Where a column has another name: item_id=asin. May be repeated.")
]
DelimiterOption = Annotated[
    str | None, typer.Option(help=r"What stands between fields; found out by default. \t and tab mean a tab.")
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        help="Label of where the rows come from, never of a person: they can be forgotten by it (lethe forget --source)."
    ),
]
LikedOption = Annotated[float | None, typer.Option(help="A rating above this counts as liked.")]
ItemTypeOption = Annotated[
    str, typer.Option("--item-type", "--noun", help="What an item is called in prompts, e.g. movie, book, song")
]
FolderArgument = Annotated[Path, typer.Argument(help="Its files may be packed as .xz, .gz, .bz2 or .zst")]
_DEFAULT_LIMIT = str(Limit())

Progress = BarProgress | LineProgress


def _add_folder(name: str, read: Callable[[Path, Terms], Dataset], told: str) -> None:
    """The command for a data set that is a folder and needs nothing else to be read."""

    def command(
        folder: FolderArgument,
        home: HomeOption = None,
        implicit: ImplicitOption = False,
        create_items: CreateOption = False,
        max_rejected: RejectOption = _DEFAULT_LIMIT,
        allow_returning: ReturningOption = False,
        source: SourceOption = None,
    ) -> None:
        terms = Terms(Limit.parse(max_rejected), implicit, create_items=create_items)
        _import(lambda known: read(folder, known), terms, home, allow_returning, source)

    import_app.command(name, help=told)(command)


_add_folder(
    "movielens",
    importers.movielens,
    "MovieLens 100K, 1M, 10M, 20M, 25M, 32M or latest: liked means a rating above 3.",
)
_add_folder(
    "bookcrossing",
    importers.bookcrossing,
    "Book-Crossing: liked means a rating above 5; rows without a rating are left out, unless every row is a like.",
)
_add_folder("goodbooks", importers.goodbooks, "goodbooks-10k: liked means a rating above 3.")


@import_app.command("goodreads")
def import_goodreads(
    interactions: Annotated[Path, typer.Argument(help="goodreads_interactions….json.gz or .csv")],
    books: Annotated[Path | None, typer.Option(help="goodreads_books….json.gz")] = None,
    home: HomeOption = None,
    implicit: ImplicitOption = False,
    create_items: CreateOption = False,
    max_rejected: RejectOption = _DEFAULT_LIMIT,
    allow_returning: ReturningOption = False,
    source: SourceOption = None,
) -> None:
    """Goodreads (UCSD Book Graph): liked means more than 3 stars; shelved books without stars are left out."""
    _import(
        lambda terms: importers.goodreads(interactions, books, terms),
        Terms(Limit.parse(max_rejected), implicit, create_items=create_items),
        home,
        allow_returning,
        source,
    )


@import_app.command("amazon")
def import_amazon(
    reviews: Annotated[Path, typer.Argument(help="Reviews of 2018 or 2023: JSON lines, also packed")],
    metadata: Annotated[Path | None, typer.Option(help="The products' metadata, JSON lines")] = None,
    item_type: ItemTypeOption = "product",
    home: HomeOption = None,
    implicit: ImplicitOption = False,
    create_items: CreateOption = False,
    max_rejected: RejectOption = _DEFAULT_LIMIT,
    allow_returning: ReturningOption = False,
    source: SourceOption = None,
) -> None:
    """Amazon Reviews 2018 and 2023: liked means more than 3 stars."""
    _import(
        lambda terms: importers.amazon(reviews, metadata, item_type, terms),
        Terms(Limit.parse(max_rejected), implicit, create_items=create_items),
        home,
        allow_returning,
        source,
    )


@import_app.command("recbole")
def import_recbole(
    folder: FolderArgument,
    liked_above: LikedOption = None,
    item_type: ItemTypeOption = "item",
    column: ColumnOption = None,
    home: HomeOption = None,
    implicit: ImplicitOption = False,
    create_items: CreateOption = False,
    max_rejected: RejectOption = _DEFAULT_LIMIT,
    allow_returning: ReturningOption = False,
    source: SourceOption = None,
) -> None:
    """RecBole's atomic files: one .inter, and one .item if there is one."""
    _import(
        lambda terms: importers.recbole(folder, liked_above, item_type, terms),
        Terms(Limit.parse(max_rejected), implicit, create_items=create_items, columns=_columns(column)),
        home,
        allow_returning,
        source,
    )


@import_app.command("table")
def import_table(
    items: Annotated[Path | None, typer.Option(help="item_id, title; optional: year, genres, author")] = None,
    interactions: Annotated[
        Path | None, typer.Option(help="user_id, item_id; liked or rating, unless --implicit; optional: timestamp")
    ] = None,
    liked_above: LikedOption = None,
    item_type: ItemTypeOption = "item",
    column: ColumnOption = None,
    delimiter: DelimiterOption = None,
    home: HomeOption = None,
    implicit: ImplicitOption = False,
    create_items: CreateOption = False,
    max_rejected: RejectOption = _DEFAULT_LIMIT,
    allow_returning: ReturningOption = False,
    source: SourceOption = None,
) -> None:
    """Your own data, by file name: CSV, TSV, JSON, Parquet or RecBole's files, plain or packed."""
    _import(
        lambda terms: importers.table(items, interactions, liked_above, item_type, terms),
        Terms(
            Limit.parse(max_rejected),
            implicit,
            create_items=create_items,
            columns=_columns(column),
            delimiter=delimiter,
        ),
        home,
        allow_returning,
        source,
    )


@import_app.command("demo")
def import_demo(home: HomeOption = None) -> None:
    """The bundled demo: 2,000 real movie titles and 400 simulated people."""
    _import(lambda _: importers.demo(), Terms(), home, allow_returning=False)


def import_demo_if_empty(opened: Home) -> None:
    """So that a first start has something to show."""
    if opened.ledger.counts().items == 0:
        demo = importers.demo()
        opened.ledger.import_data(demo.items, demo.interactions, demo.item_type)


def _columns(given: list[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in given or ()]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise ImportRefused("--column takes our name of a column and that in the file, as --column item_id=asin")
    return {ours: theirs for ours, _, theirs in pairs}


def _import(
    read: Callable[[Terms], Dataset], terms: Terms, home: Path | None, allow_returning: bool, source: str | None = None
) -> None:
    check_source(source)  # before files are read, which may take minutes
    opened = open_home(home, {})
    with progress_for_stderr() as progress:
        dataset = read(_with_knowledge(terms, opened, progress))
        counts = _take(opened, dataset, allow_returning, terms.create_items, progress, source)
    for rejection in dataset.rejected:
        err.print(f"left out: {rejection}", markup=False, highlight=False)
    if dataset.rejected_rows > len(dataset.rejected):
        err.print(f"left out: {dataset.rejected_rows - len(dataset.rejected):,} more", highlight=False)
    typer.echo(_summary(counts, dataset.rejected_rows))


def _with_knowledge(terms: Terms, opened: Home, progress: Progress) -> Terms:
    def watch(name: str, size: int) -> Callable[[int], None]:
        progress.phase(f"reading {name}", size)
        return progress.advance

    known = None if terms.create_items else opened.ledger.item_ids()
    return Terms(terms.max_rejected, terms.implicit, known, terms.create_items, terms.columns, terms.delimiter, watch)


def _take(
    opened: Home, dataset: Dataset, allow_returning: bool, create_items: bool, progress: Progress, source: str | None
) -> ImportCounts:
    def take() -> ImportCounts:
        progress.phase("writing interactions", len(dataset.interactions))
        return opened.ledger.import_data(
            *(dataset.items, dataset.interactions, dataset.item_type),
            allow_returning,
            create_items,
            progress.advance,
            source,
        )

    if not allow_returning:
        return take()
    with opened.tombstones.locked():
        # Before they are back: a crash in between must not have them forgotten again at the next start.
        opened.tombstones.remove(opened.ledger.tombstones_over(dataset.interactions))
        return take()


def _summary(counts: ImportCounts, rejected: int) -> str:
    restricted = f", {counts.restricted:,} of restricted people skipped" if counts.restricted else ""
    return (
        f"{counts.interactions:,} interactions, {counts.users:,} users, {counts.items:,} items "
        f"({counts.new_interactions:,} new interactions, {counts.changed_interactions:,} changed, "
        f"{counts.new_items:,} new items ({counts.created_items:,} created), {rejected:,} malformed rows left out, "
        f"{counts.folded:,} rows folded into newer ones of the same user and item, "
        f"{counts.outdated:,} older than what is held, {counts.tombstoned:,} of forgotten people skipped{restricted})"
    )

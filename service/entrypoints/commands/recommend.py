"""`lethe recommend`: what `POST /recommend` answers to everybody, in one file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from service.data.exporters import ExportFile
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import err, print_report, progress_for_stderr
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home, with_settings
from service.entrypoints.commands.people import people_in
from service.entrypoints.offline import offline_recommender
from service.errors import InvalidInput
from service.scoring.offline import COLUMNS, OfflineCounts, OfflineJob

_PAGE = 1_000  # people that are read from the ledger at a time


@with_settings(("threads",))
def recommend(
    given: dict[str, Any],
    out: Annotated[
        Path, typer.Option(help="File to write: .parquet, .csv or .jsonl. It is personal data, readable by you alone.")
    ],
    everybody: Annotated[
        bool, typer.Option("--all", help="Everybody of whom something is held that may be used.")
    ] = False,
    users: Annotated[
        Path | None, typer.Option(help="These people: an id a line, or the column user_id of .csv or .jsonl.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=200, help="Items for each person, at most.")] = 10,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Recommend to many people at once, into a file: what a server would answer to each of them.

    Whoever is unknown, forgotten or restricted, also while this runs, is not in the file. What becomes of the file
    afterwards Lethe does not know: a later deletion does not reach it.
    """
    if everybody == (users is not None):
        raise InvalidInput("give either --all, or --users FILE")
    named = None if users is None else people_in(users)
    opened = open_home(home, given)
    opened.restore_check()
    began = time.monotonic()
    with ExportFile(out, COLUMNS) as file, offline_recommender(opened) as recommender, progress_for_stderr() as shown:
        shown.phase("recommending", max(1, opened.ledger.counts().users if named is None else len(named)))
        job = OfflineJob(recommender, opened.ledger, file, top_k, shown.advance)
        counts = asyncio.run(job.run(_everybody(opened) if named is None else named))
    print_report(_told(counts, time.monotonic() - began), json_)
    if named is not None and counts.left_out:
        err.print(
            f"{counts.left_out} of the people named are not in the file: nothing of them may be used", style="yellow"
        )


def _everybody(opened: Home) -> Iterator[str]:
    last: str | None = None
    while some := opened.ledger.users_after(last, _PAGE):
        yield from some
        last = some[-1]


def _told(counts: OfflineCounts, seconds: float) -> dict[str, Any]:
    return {
        "people": counts.people,
        "rows": counts.rows,
        "left_out": counts.left_out,
        "dropped": counts.dropped,
        "seconds": round(seconds, 1),
        "people_per_second": round(counts.people / seconds, 1),
    }

"""The command line. Commands translate and delegate; errors are one line and a non-zero exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Annotated

import typer
from rich.markup import escape

from adapters_store import StoreFailure
from service.entrypoints.commands.console import err
from service.entrypoints.commands.lazy import CommandEntry, lazy_app
from service.entrypoints.tracebacks import describe
from service.errors import LetheError
from service.version import VERSION

_HERE = "service.entrypoints.commands"
SERVICE: Mapping[str, CommandEntry] = {
    "import": CommandEntry(f"{_HERE}.imports:import_app", "Read interactions into the ledger."),
    "ingest": CommandEntry(f"{_HERE}.ingest:ingest", "Take in events, lines of JSON, as they come."),
    "build": CommandEntry(f"{_HERE}.build:build", "Make the generation that the ledger describes, and publish it."),
    "serve": CommandEntry(f"{_HERE}.serve:serve", "Answer HTTP requests, and (with a worker) build and forget."),
    "recommend": CommandEntry(f"{_HERE}.recommend:recommend", "Recommend to everybody at once, into a file."),
    "worker": CommandEntry(f"{_HERE}.worker:worker", "Carry out deletions and build what is missing, until stopped."),
    "forget": CommandEntry(f"{_HERE}.forget:forget", "Forget a person, or some of what is held of them."),
    "rights": CommandEntry(f"{_HERE}.rights:rights_app", "Restriction, holds and merges of one person's ids."),
    "status": CommandEntry(f"{_HERE}.status:status", "What is served, from what, and which deletions are owed."),
    "quality": CommandEntry(f"{_HERE}.quality:quality", "How the generations do among those whom they were shown to."),
    "verify": CommandEntry(f"{_HERE}.verify:verify", "Check what is published, or that a deletion erased everything."),
    "receipts": CommandEntry(f"{_HERE}.receipts:receipts_app", "The signed evidence of completed deletions."),
    "keys": CommandEntry(f"{_HERE}.keys:keys_app", "API keys: who may ask over the network, and for what."),
    "audit": CommandEntry(f"{_HERE}.audit:audit", "Who did what, when, from where, and how it ended."),
    "restore-check": CommandEntry(f"{_HERE}.verify:restore_check", "Forget again whom a restored ledger brought back."),
    "secret": CommandEntry(f"{_HERE}.secret:secret_app", "The secret that all keyed hashes are made with."),
    "settings": CommandEntry(f"{_HERE}.status:settings", "List every setting with its variable and default."),
    "upgrade": CommandEntry(f"{_HERE}.upgrade:upgrade", "Bring the ledger of an earlier version to this one's schema."),
}
_RESEARCH = ("evaluate", "bench", "pretrain")
_RESEARCH_GROUP = "lethe.commands"


def commands() -> dict[str, CommandEntry]:
    """The service's own, and those that other distributions bring (entry points of the group `lethe.commands`)."""
    return {**SERVICE, **{found.name: found.load() for found in sorted(entry_points(group=_RESEARCH_GROUP))}}


app = lazy_app(commands(), "A recommendation service that can forget.")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lethe {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before any command."""


def main() -> None:
    """The console script."""
    try:
        _refuse_research(sys.argv[1:2])
        app()
    except (LetheError, StoreFailure) as error:
        # One line, whatever a library wrote into it; a bracket in it is no markup.
        err.print(f"[red]lethe:[/red] {escape(' '.join(str(error).split()))}", highlight=False)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - its text may quote a row, so only its kind and place are told
        err.print(f"[red]lethe:[/red] internal error: {escape(describe(error))}; please report it", highlight=False)
        sys.exit(70)


def _refuse_research(asked: list[str]) -> None:
    if asked and asked[0] in _RESEARCH and asked[0] not in commands():
        err.print(
            f"[red]lethe:[/red] `{asked[0]}` comes with the distribution lethe-research, which is not installed; in a "
            "checkout: `pip install ./research`",
            highlight=False,
        )
        sys.exit(2)

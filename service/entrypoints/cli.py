"""The command line. Commands translate and delegate; errors are one line and a non-zero exit code."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters_store import Store, StoreFailure
from service.config import Settings, load_settings
from service.data import importers
from service.data.samples import tallrec_split
from service.entrypoints.bootstrap import Home, serving_app
from service.entrypoints.console import err, progress_for_stderr
from service.entrypoints.imports import import_app, import_demo_if_empty
from service.entrypoints.options import HomeOption, open_home, with_settings
from service.entrypoints.telemetry import configure_logging
from service.entrypoints.worker import Supervisor, exit_on_sigterm, run_worker
from service.errors import InvalidSetting, LetheError
from service.evaluation import tallrec
from service.forgetting.bell import Bell
from service.forgetting.intake import Intake
from service.llm.frozen import FrozenModel
from service.records import BuildConfig

app = typer.Typer(
    name="lethe", no_args_is_help=True, add_completion=False, help="A recommendation service that can forget."
)
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure how good the recommendations are.")
app.add_typer(import_app, name="import")
app.add_typer(evaluate_app, name="evaluate")

BUILD_SETTINGS = (
    *(name for name in BuildConfig.__dataclass_fields__),
    "model",
    "model_revision",
    "dtype",
    "device",
    "build_processes",
)
SERVE_SETTINGS = ("host", "port", "threads", "request_timeout", "max_batch_rows", "max_queued_rows", "log_level")
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DemoOption = Annotated[bool, typer.Option("--demo", help="Import the demo data first, if the ledger holds nothing.")]
WAIT_POLL = 0.5  # seconds


@app.command()
@with_settings(BUILD_SETTINGS)
def build(given: dict[str, Any], demo: DemoOption = False, home: HomeOption = None, json_: JsonOption = False) -> None:
    """Make the generation that the ledger and the settings describe, and publish it. Computes only what is missing."""
    opened = open_home(home, given)
    if demo:
        import_demo_if_empty(opened)
    began = time.monotonic()
    bell = opened.bell()
    with progress_for_stderr() as progress, _undisturbed(bell):
        built = opened.reconciler(bell, progress).rebuild(opened.settings.build_config())
    bell.close()
    report = {
        "generation": built.generation,
        "shards": len(built.shards),
        "trained": len(built.trained),
        "validation_rows": len(built.rows),
        "seconds": round(time.monotonic() - began, 1),
    }
    _print(report, json_)


@app.command()
@with_settings(SERVE_SETTINGS)
def serve(
    given: dict[str, Any],
    demo: DemoOption = False,
    worker: Annotated[bool, typer.Option(help="Also run a worker as a supervised child.")] = True,
    home: HomeOption = None,
) -> None:
    """Answer HTTP requests, and (with a worker) build what is missing and carry out deletions."""
    opened = open_home(home, given)
    configure_logging(opened.settings.log_level)
    if demo:
        import_demo_if_empty(opened)
    supervisor = Supervisor(opened.settings) if worker else None
    application = serving_app(
        opened,
        on_start=supervisor.start if supervisor else lambda: None,
        on_stop=supervisor.stop if supervisor else lambda: None,
    )
    # uvicorn drains on SIGTERM and then raises it again, for whoever was listening before.
    exit_on_sigterm()
    uvicorn.run(
        application,
        host=opened.settings.host,
        port=opened.settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(opened.settings.request_timeout) + 1,
    )


@app.command("worker")
def worker_(
    home: HomeOption = None,
    supervised: Annotated[bool, typer.Option(hidden=True, help="End when standard input closes.")] = False,
) -> None:
    """Carry out deletions and build what is missing, until stopped."""
    settings = load_settings(home=home)
    configure_logging(settings.log_level)
    with progress_for_stderr() as progress:
        run_worker(settings, supervised, progress)


@app.command()
def forget(
    user_id: str,
    item_id: Annotated[list[str] | None, typer.Option(help="Only this item's interaction; may be repeated.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the deletion is completed.")] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Forget a person, or some of what is held of them. With --wait, does the work here if no worker is at it."""
    opened = open_home(home, {})
    request = Intake(opened.ledger, opened.signer).forget(user_id, item_id, None)
    bell = opened.bell()
    bell.ring()
    while wait and request.state != "completed":
        with bell.courtesy_lock() as held:
            if held:
                with progress_for_stderr() as progress:
                    opened.reconciler(bell, progress).settle()
        request = opened.ledger.request(request.request_id)
        if request.state != "completed":
            time.sleep(WAIT_POLL)
    bell.close()
    _print(
        {
            "request_id": request.request_id,
            "state": request.state,
            "affected_shards": list(request.affected_shards),
            "fence": request.fence,
        },
        json_,
    )


@app.command()
def status(home: HomeOption = None, json_: JsonOption = False) -> None:
    """What is served, from what, and which deletions are owed."""
    opened = open_home(home, {})
    report = _status(opened)
    if json_:
        _print(report, json_)
        return
    _print({name: value for name, value in report.items() if not isinstance(value, list)}, json_)
    _print_rows("shards", report["shards"])
    _print_rows("owed deletions", report["owed"])


@app.command()
def verify(
    rebuild: Annotated[bool, typer.Option(help="Build again in an empty store and compare every byte.")] = False,
    home: HomeOption = None,
) -> None:
    """Check every file of the published generation against its digest; exit code 1 if anything differs."""
    opened = open_home(home, {})
    active = opened.ledger.generation()
    if active is None:
        raise InvalidSetting("nothing is published yet, so there is nothing to verify; run `lethe build`")
    manifest = opened.store.generation(active).manifest
    for adapter in manifest["adapters"]:
        if opened.store.adapter_sums(adapter["digest"]) != adapter["files"]:
            raise StoreFailure(f"adapter {adapter['digest']} is not the one that the manifest names; run `lethe build`")
    typer.echo(f"generation {active}: {len(manifest['adapters'])} adapters sound")
    if rebuild:
        _verify_rebuild(opened, active)


@evaluate_app.command("movielens-100k")
@with_settings(BUILD_SETTINGS)
def evaluate_movielens(
    folder: Annotated[Path, typer.Argument(help="MovieLens 100K")],
    given: dict[str, Any],
    training_samples: Annotated[int, typer.Option(min=1, max=8000, help="Windows drawn from TALLRec's 8,000")] = 1024,
    json_: JsonOption = False,
) -> None:
    """TALLRec's split: train on 1,024 windows, test on 1,000; in a scratch folder that is removed afterwards."""
    dataset = importers.movielens(folder)
    items = {item.item_id: item for item in dataset.items}
    defaults = {"max_shard_size": tallrec.MAX_SHARD_SIZE}
    with tempfile.TemporaryDirectory() as scratch, progress_for_stderr() as progress:
        # Never the ledger of the installation, whatever LETHE_DATABASE_URL says: this one is thrown away.
        given["database_url"] = f"sqlite:///{scratch}/ledger.sqlite"
        opened = open_home(Path(scratch), defaults | {name: v for name, v in given.items() if v is not None})
        opened.ledger.import_data(dataset.items, [], dataset.noun)
        report = tallrec.evaluate(
            tallrec_split(dataset.interactions, items),
            dataset.items,
            opened.ledger,
            opened.store,
            opened.builder(progress=progress),
            FrozenModel.load(opened.model()),
            opened.settings.build_config(),
            training_samples,
        )
        opened.ledger.close()
    _print(dataclasses.asdict(report), json_)


@app.command()
def settings() -> None:
    """List every setting with its environment variable and default."""
    table = Table("variable", "default", "meaning")
    for name, field in Settings.model_fields.items():
        table.add_row(f"LETHE_{name.upper()}", str(field.default), field.description or "")
    Console().print(table)


def main() -> None:
    """The console script."""
    try:
        app()
    except (LetheError, StoreFailure) as error:
        # One line, whatever a library wrote into it; a bracket in it is no markup.
        err.print(f"[red]lethe:[/red] {escape(' '.join(str(error).split()))}", highlight=False)
        sys.exit(1)


@contextmanager
def _undisturbed(bell: Bell) -> Iterator[None]:
    """Wait until no worker is building."""
    told = False
    while True:
        with bell.courtesy_lock() as held:
            if held:
                yield
                return
        if not told:
            err.print("another process is building; waiting for it")
            told = True
        time.sleep(WAIT_POLL)


def _status(opened: Home) -> dict[str, Any]:
    mask, counts = opened.ledger.mask(), opened.ledger.counts()
    manifest = opened.store.generation(mask.generation).manifest if mask.generation else {"adapters": []}
    return {
        "generation": mask.generation,
        "fence": mask.fence,
        **dataclasses.asdict(counts),
        "validation_rows": manifest.get("validation_rows", 0),
        "config": manifest.get("config", {}),
        "shards": [
            {
                "shard": adapter["shard"],
                "digest": adapter["digest"],
                "samples": adapter["samples"],
                "masked": adapter["digest"] in mask.adapters,
            }
            for adapter in manifest["adapters"]
        ],
        "owed": [
            {
                "request_id": request.request_id,
                "state": request.state,
                "age_seconds": round(time.time() - request.accepted_at, 1),
                "attempts": request.attempts,
                "error": request.error,
            }
            for request in opened.ledger.owed()
        ],
    }


def _verify_rebuild(opened: Home, active: str) -> None:
    config = opened.reconciler(opened.bell()).config()
    with tempfile.TemporaryDirectory() as scratch, progress_for_stderr() as progress:
        built = opened.rehearsal(Store(Path(scratch)), progress).build(config)
    if built.generation != active:
        raise StoreFailure(
            f"a clean build gives generation {built.generation}, but {active} is served; "
            "if rows were imported since, run `lethe build`"
        )
    typer.echo("a clean build from the ledger gives the same generation, byte for byte")


def _print(report: dict[str, Any], json_: bool) -> None:
    if json_:
        typer.echo(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(*(rows[0] if rows else ()), title=f"{title}: {len(rows)}")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()

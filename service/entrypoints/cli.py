"""The command line. Commands translate and delegate; errors are one line and a non-zero exit code."""

from __future__ import annotations

import dataclasses
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
import uvicorn
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters_store import Inspector, StoreFailure
from service.config import Settings, load_settings
from service.entrypoints.benchmarks import bench_app
from service.entrypoints.bootstrap import Home, serving_app
from service.entrypoints.comparisons import compare_methods
from service.entrypoints.console import err, print_report, progress_for_stderr
from service.entrypoints.evaluations import evaluate_app
from service.entrypoints.imports import import_app, import_demo_if_empty
from service.entrypoints.load_benchmarks import bench_memory, bench_scale, bench_serving
from service.entrypoints.options import BUILD_SETTINGS, HomeOption, JsonOption, open_home, with_settings
from service.entrypoints.pretraining import pretrain_model
from service.entrypoints.proofs import receipts_app, restore_check, verify
from service.entrypoints.rankings import rank_methods
from service.entrypoints.schemas import ForgetAnswer
from service.entrypoints.secret import secret_app
from service.entrypoints.telemetry import configure_logging, describe
from service.entrypoints.upgrades import upgrade
from service.entrypoints.worker import Supervisor, exit_on_sigterm, run_worker
from service.errors import LetheError
from service.forgetting.bell import Bell
from service.records import ByTitle, ForgetRequest, ItemName, Outcome

app = typer.Typer(
    name="lethe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they show values of variables
    help="A recommendation service that can forget.",
)
app.add_typer(import_app, name="import")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(bench_app, name="bench")
app.add_typer(receipts_app, name="receipts")
app.add_typer(secret_app, name="secret")
app.command()(verify)
app.command()(restore_check)
app.command()(upgrade)
app.command("pretrain")(pretrain_model)
evaluate_app.command("compare")(compare_methods)
evaluate_app.command("ranking")(rank_methods)
bench_app.command("serving")(bench_serving)
bench_app.command("scale")(bench_scale)
bench_app.command("memory")(bench_memory)

SERVE_SETTINGS = ("host", "port", "threads", "request_timeout", "max_batch_tokens", "max_queued_tokens", "log_level")
DemoOption = Annotated[bool, typer.Option("--demo", help="Import the demo data first, if the ledger holds nothing.")]
WAIT_POLL = 0.5  # seconds
NOTHING_HELD_EXIT = 3
_NOTHING_HELD = (
    "nothing was held: is the id right? Rows that come in later are kept out for a time, if they are older than this "
    "request; --remember keeps all of them out for ever"
)


@app.command()
@with_settings(BUILD_SETTINGS)
def build(given: dict[str, Any], demo: DemoOption = False, home: HomeOption = None, json_: JsonOption = False) -> None:
    """Make the generation that the ledger and the settings describe, and publish it. Computes only what is missing."""
    opened = open_home(home, given)
    if demo:
        import_demo_if_empty(opened)
    opened.restore_check()
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
    print_report(report, json_)


@app.command()
@with_settings(SERVE_SETTINGS)
def serve(
    given: dict[str, Any],
    demo: DemoOption = False,
    worker: Annotated[bool, typer.Option(help="Also run a worker as a supervised child.")] = True,
    home: HomeOption = None,
) -> None:
    """Answer HTTP requests, and (with a worker) build what is missing and carry out deletions."""
    settings = load_settings(home=home, **given)
    configure_logging(settings.log_level)  # first: an upgrade at this start is to be seen
    opened = Home.open(settings)
    if demo:
        import_demo_if_empty(opened)
    opened.restore_check()
    supervisor = Supervisor(settings) if worker else None
    application = serving_app(
        opened,
        on_start=supervisor.start if supervisor else lambda: None,
        on_stop=supervisor.stop if supervisor else lambda: None,
    )
    keep_for_good()
    # uvicorn drains on SIGTERM and then raises it again, for whoever was listening before.
    exit_on_sigterm()
    uvicorn.run(
        application,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(settings.request_timeout) + 1,
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
    item_id: Annotated[
        list[str] | None,
        typer.Option(
            help="Only what is held of this item: its id, or if no item has it, its exact title. May be repeated."
        ),
    ] = None,
    item_title: Annotated[
        list[str] | None, typer.Option(help="Only what is held of items with exactly this title. May be repeated.")
    ] = None,
    remember: Annotated[
        bool, typer.Option(help="Keep the person out for ever, even if nothing is held of them.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the deletion is completed.")] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Forget a person, or some of what is held of them. Exit code 3 if nothing was held, now or before.

    With --wait, does the work here if no worker is at it. A user id that begins with a dash stands after `--`.
    """
    opened = open_home(home, {})
    opened.restore_check()
    names: list[ItemName] = [*(item_id or ()), *map(ByTitle, item_title or ())]
    request = opened.intake().forget(user_id, names or None, None, remember)
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
    print_report(_told(request, json_), json_)
    if request.found is Outcome.NOTHING_HELD:
        err.print(_NOTHING_HELD, style="yellow")
        raise typer.Exit(NOTHING_HELD_EXIT)
    if request.items is not None and request.items.unknown:
        err.print(
            f"{request.items.unknown} of {request.items.named} items are unknown: no id, no title", style="yellow"
        )


def _told(request: ForgetRequest, json_: bool) -> dict[str, Any]:
    """What the answer of `POST /forget` states; as lines the counts stand one by one."""
    stated = ForgetAnswer.of(request).model_dump(mode="json")
    if json_:
        return stated
    flat: dict[str, Any] = {}
    for name, value in stated.items():
        flat |= (
            {f"{name}_{part}": number for part, number in value.items()} if isinstance(value, dict) else {name: value}
        )
    return {name: value for name, value in flat.items() if value is not None}


@app.command()
def status(home: HomeOption = None, json_: JsonOption = False) -> None:
    """What is served, from what, and which deletions are owed."""
    opened = open_home(home, {})
    report = _status(opened)
    if json_:
        print_report(report, json_)
        return
    print_report({name: value for name, value in report.items() if not isinstance(value, list)}, json_)
    _print_rows("shards", report["shards"])
    _print_rows("owed deletions", report["owed"])


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
    except Exception as error:  # noqa: BLE001 - its text may quote a row, so only its kind and place are told
        err.print(f"[red]lethe:[/red] internal error: {escape(describe(error))}; please report it", highlight=False)
        sys.exit(70)


def keep_for_good() -> None:
    """Let the garbage collector pass over all that there is now.

    A server's libraries and model stay until its end. To walk through them, as every full collection does, takes a fifth of a
    second in which no request moves.
    """
    gc.collect()
    gc.freeze()


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
    manifest, store = _served(opened, mask.generation)
    return {
        "generation": mask.generation,
        "store": store,
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
        "overdue": opened.ledger.overdue(opened.settings.forget_deadline),
        "owed": [
            {
                "request_id": request.request_id,
                "state": request.state,
                "held": request.held,
                "overdue": opened.ledger.now() - request.accepted_at > opened.settings.forget_deadline,
                "age_seconds": round(max(0.0, opened.ledger.now() - request.accepted_at), 1),
                "attempts": request.attempts,
                "error": request.error,
            }
            for request in opened.ledger.owed()
        ],
    }


def _served(opened: Home, generation: str | None) -> tuple[dict[str, Any], str]:
    """The published manifest, and how the store stands: whoever looks here may do so because it is damaged."""
    if generation is None:
        return {"adapters": []}, "nothing is published yet"
    try:
        found = Inspector(opened.store).look(generation)
        return dict(found.manifest or {"adapters": []}), found.faults[0].reason if found.faults else "sound"
    except StoreFailure as failure:
        return {"adapters": []}, str(failure)


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(*(rows[0] if rows else ()), title=f"{title}: {len(rows)}")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)

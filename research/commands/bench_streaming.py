"""`lethe bench streaming`: events into a running server while people ask it for recommendations."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from research.benchmarks import serving
from research.benchmarks.streaming import StreamingPlan, StreamingTrial
from research.commands.bench import OutOption, RoundsOption, tell
from research.commands.bench_load import built_of, served_by
from research.commands.scratch import scratch_home, stated
from service.data import importers
from service.entrypoints.commands.console import progress_for_stderr
from service.entrypoints.commands.options import BUILD_SETTINGS, JsonOption, with_settings
from service.errors import InvalidSetting
from service.ledger import ledger_exists

_SMALL = {"max_shard_size": 256, "samples_per_user": 8}


@with_settings((*BUILD_SETTINGS, "threads"))
def bench_streaming(
    given: dict[str, Any],
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of one request")] = 1_000,
    batches: Annotated[int, typer.Option(min=1, help="Of one run at saturation")] = 60,
    clients: Annotated[int, typer.Option(min=1, max=4, help="That stream at saturation")] = 2,
    wanted: Annotated[float, typer.Option(min=1, help="Rows a second beside which recommendations are timed")] = 5_000,
    rate: Annotated[float, typer.Option(min=0.1, help="Recommendations asked for a second")] = 4.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each load, over all rounds")] = 60.0,
    rounds: RoundsOption = 3,
    people: Annotated[int, typer.Option(min=20, max=400, help="Simulated people of whom the generation is made")] = 120,
    database_url: Annotated[
        str | None,
        typer.Option(help="Empty PostgreSQL database for the ledger, left full; default: SQLite in a scratch folder"),
    ] = None,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """Events into a running server over HTTP beside the database alone, and recommendations' latency with and without them."""
    if database_url is not None and ledger_exists(database_url):
        raise InvalidSetting("the database of --database-url holds a ledger; give an empty one")
    plan = StreamingPlan(batch, batches, clients, wanted, rate, seconds, rounds)
    with scratch_home(_SMALL | stated(given), database_url) as opened, progress_for_stderr() as progress:
        asking = built_of(opened, importers.demo(), people)
        items, port = sorted(opened.ledger.item_ids()), serving.free_port()
        with served_by(opened, port):
            at = database_url or opened.settings.home
            sections = StreamingTrial(port, asking, items, at, plan, progress).run()
    asked = {"batch": batch, "batches": batches, "clients": clients, "wanted": wanted, "rate": rate, "seconds": seconds}
    told = {"rounds": rounds, "people": people, "database": "PostgreSQL" if database_url else "SQLite"}
    tell("streaming", asked | told, sections, out, json_)

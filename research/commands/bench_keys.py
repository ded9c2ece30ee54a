"""`lethe bench keys`: what API keys and quotas cost a server under load."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from research.benchmarks import keys, serving
from research.benchmarks.interleaved import Floor
from research.benchmarks.requests import REQUEST_SHAPES, Asker
from research.commands.bench import OutOption, RoundsOption, tell
from research.commands.bench_load import built_of, served_by
from research.commands.scratch import scratch_home, stated
from service.data import importers
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.options import BUILD_SETTINGS, JsonOption, with_settings
from service.entrypoints.devices import served_model
from service.ledger import Quota, Scope
from service.llm.frozen import FrozenModel

_SMALL = {"max_shard_size": 256, "samples_per_user": 8}
_PLENTY = 10**9  # a minute: buckets are asked at every request, and never empty


@with_settings(BUILD_SETTINGS)
def bench_keys(
    given: dict[str, Any],
    minutes: Annotated[float, typer.Option(min=0.01, help="At 70% load")] = 0.25,
    saturated_seconds: Annotated[float, typer.Option(min=0.1, help="Of one run at saturation")] = 3.0,
    overload_seconds: Annotated[float, typer.Option(min=0.1, help="At 300% load")] = 15.0,
    rounds: RoundsOption = 3,
    clients: Annotated[int, typer.Option(min=1, max=100, help="That ask at any time, at saturation")] = 4,
    people: Annotated[int, typer.Option(min=20, max=400, help="Simulated people of whom the generation is made")] = 120,
    redis_url: Annotated[str | None, typer.Option(help="Keep quotas in this Redis; without it, in process")] = None,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """A server that wants keys and keeps quotas beside one that lets everybody in: throughput, then 70% and 300% load."""
    plan = serving.Plan(rounds, saturated_seconds, 60 * minutes, overload_seconds)
    with scratch_home(_SMALL | stated(given)) as opened, tempfile.TemporaryDirectory() as folder:
        built_of(opened, importers.demo(), people)
        closed, key = _with_a_key(opened, Path(folder) / "home")
        tokenizer = FrozenModel.load(served_model(opened)).tokenizer
        asker = Asker(REQUEST_SHAPES[0], tokenizer, opened.ledger.item_type(), opened.settings.seed)
        doors = keys.Door(serving.free_port()), keys.Door(serving.free_port(), key)
        with served_by(opened, doors[0].port), served_by(closed, doors[1].port, redis_url):
            floor = Floor(asker.shape.tokens, 0)
            sections = keys.KeysTrial(*doors, asker, floor, clients, plan).run()
        closed.ledger.close()
    told = {"minutes": minutes, "rounds": rounds, "clients": clients, "people": people, "redis": redis_url is not None}
    tell("keys", told, sections, out, json_)


def _with_a_key(opened: Home, home: Path) -> tuple[Home, str]:
    """A copy of the installation that has a key, and the key."""
    shutil.copytree(opened.settings.home, home)
    own = {"home": home, "database_url": f"sqlite:///{home}/ledger.sqlite"}
    copied = Home.open(opened.settings.model_copy(update=own))
    quota = Quota(_PLENTY, _PLENTY, _PLENTY)
    _, key = copied.ledger.keys.create("bench", [Scope.RECOMMEND], None, quota, "bench")
    return copied, key

"""`lethe bench serving|scale|memory`: a real server under load, control plane and counts at any size; in scratch folders."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from research.benchmarks import memory, scale, serving
from research.benchmarks.fakes import Plan
from research.benchmarks.interleaved import Floor
from research.benchmarks.models import (
    SHAPES,
    Cost,
    random_model,
    save_random_model,
    times,
    total,
)
from research.benchmarks.report import Section
from research.benchmarks.requests import REQUEST_SHAPES, Asker, RequestShape
from research.commands.bench import (
    OutOption,
    RoundsOption,
    Shape,
    tell,
)
from research.commands.scratch import scratch_home, stated
from service.config import BUNDLED_MODEL, load_settings
from service.data import importers
from service.data.samples import is_validation_user
from service.entrypoints import building
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import progress_for_stderr
from service.entrypoints.commands.options import BUILD_SETTINGS, JsonOption, with_settings
from service.entrypoints.devices import model_of, served_model
from service.errors import InvalidSetting
from service.forgetting.bell import open_bell
from service.llm.frozen import FrozenModel
from service.scoring.scorer import Scorer, Untimed
from service.scoring.snapshot import Snapshots

_SERVER_SETTINGS = ("threads", "request_timeout", "max_batch_tokens", "max_queued_tokens")
_CONFIGURED = Shape("configured")
_SMALL = {"max_shard_size": 256, "samples_per_user": 8}  # shards that retrain within the default durations


@with_settings((*BUILD_SETTINGS, *_SERVER_SETTINGS))
def bench_serving(
    given: dict[str, Any],
    minutes: Annotated[
        float, typer.Option(min=0.01, help="At 70% load: so long alone, and again while shards retrain")
    ] = 0.25,
    saturated_seconds: Annotated[float, typer.Option(min=0.1, help="Of one run at saturation")] = 3.0,
    overload_seconds: Annotated[
        float, typer.Option(min=0.1, help="At 300% load; longer than a request may wait")
    ] = 15.0,
    rounds: RoundsOption = 3,
    requests: Annotated[
        str, typer.Option(help="Tokens of context + of a question x candidates; comma-separated")
    ] = ",".join(f"{shape.context}+{shape.question}x{shape.items}" for shape in REQUEST_SHAPES),
    people: Annotated[int, typer.Option(min=20, max=400, help="Simulated people of whom the generation is made")] = 120,
    shape: Annotated[
        Shape, typer.Option(help="Random weights of this shape; `configured`: the model that the settings name")
    ] = _CONFIGURED,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """A real server over HTTP beside the scorer in it: throughput, latency at 70% load, a shard's retraining, and 300% load."""
    wanted = [_request_shape(text) for text in requests.split(",")]
    plan = serving.Plan(rounds, saturated_seconds, 60 * minutes, overload_seconds)
    with _model(shape, given) as model, scratch_home(_SMALL | stated(given) | model) as opened:
        users = iter(built_of(opened, importers.demo(), people))
        port = serving.free_port()
        sections: list[Section] = []
        with served_by(opened, port):
            offline = _Offline(opened)
            for size in wanted:
                asker = Asker(size, offline.frozen.tokenizer, opened.ledger.item_type(), opened.settings.seed)
                trial = serving.Trial(
                    port, offline.scorer, asker, offline.floor(asker), opened.settings.max_batch_tokens, plan
                )
                sections += trial.run(users)
    told = {"shape": shape.value, "requests": requests, "minutes": minutes, "rounds": rounds, "people": people}
    tell("serving", told | _words(given), sections, out, json_)


@with_settings(BUILD_SETTINGS)
def bench_scale(
    given: dict[str, Any],
    users: Annotated[int, typer.Option(min=20, help="Simulated people")] = 5_000,
    shards: Annotated[int, typer.Option(min=1, help="About as many adapters")] = 50,
    interactions: Annotated[int, typer.Option(min=2, help="Of each person")] = 5,
    deletions: Annotated[int, typer.Option(min=1, help="One after another")] = 3,
    training_seconds: Annotated[float, typer.Option(min=0, help="That one shard's training is said to take")] = 0.0,
    adapter_bytes: Annotated[int, typer.Option(min=4, help="Size of an adapter's file")] = 1_024,
    database_url: Annotated[
        str | None,
        typer.Option(help="Empty PostgreSQL database for the ledger, left full; default: SQLite in a scratch folder"),
    ] = None,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """The control plane alone, without any model's work: an import, a build's planning, deletions; seconds and memory.

    --max-shard-size is chosen to make about as many shards as --shards says.
    """
    settings = load_settings(**stated(given))
    plan = Plan(users, shards, interactions, deletions, training_seconds, adapter_bytes, settings.seed)
    model = model_of(settings)
    with tempfile.TemporaryDirectory() as scratch, progress_for_stderr() as progress:
        site = scale.Site(Path(scratch), database_url)
        sections = scale.Simulation(site, model, settings.build_config(), plan, progress).run()
    asked: dict[str, Any] = {"users": users, "shards": shards, "interactions": interactions, "deletions": deletions}
    asked["database"] = "PostgreSQL" if database_url else "SQLite"
    tell("scale", asked | _words(given), sections, out, json_)


@with_settings(("memory_shard_size", "min_people", "seed"))
def bench_memory(
    given: dict[str, Any],
    users: Annotated[int, typer.Option(min=100, help="Simulated people")] = 10_000,
    interactions: Annotated[int, typer.Option(min=2, help="Of each person")] = 100,
    items: Annotated[int, typer.Option(min=100, help="Of the catalog")] = 10_000,
    requests: Annotated[int, typer.Option(min=10, help="Timed, one after another")] = 200,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """The counts alone: counting people, adding up, ordering a catalog for a person, and what a deletion changes."""
    settings = load_settings(**stated(given))
    crowd = memory.Crowd(
        users, interactions, items, settings.memory_shard_size, settings.min_people, requests, settings.seed
    )
    with tempfile.TemporaryDirectory() as scratch, progress_for_stderr() as progress:
        sections = memory.MemoryBench(Path(scratch) / "store", crowd, progress).run()
    asked: dict[str, Any] = {"users": users, "interactions": interactions, "items": items, "requests": requests}
    tell("memory", asked | _words(given), sections, out, json_)


class _Offline:
    """The scorer that the server has, in this process."""

    def __init__(self, opened: Home) -> None:
        settings = opened.settings
        torch.set_num_threads(settings.scoring_threads())
        self.frozen = FrozenModel.load(served_model(opened))
        self._config = settings.build_config()
        snapshots = Snapshots(opened.store, self.frozen)
        self._adapters = len(snapshots.of(opened.ledger.generation()).stack.digests)
        self.scorer = Scorer(opened.ledger, snapshots, self.frozen, Untimed())

    def floor(self, asker: Asker) -> Floor:
        """What one request costs at least: its context once, and each question after it."""
        cost, shape = Cost.of(self.frozen, self._config.lora_targets), asker.shape
        rank = self._adapters * self._config.lora_rank
        question = cost.read(shape.question, shape.context, rank)
        return total([cost.read(shape.context), times(shape.items, question)])


def built_of(opened: Home, dataset: importers.Dataset, people: int) -> list[str]:
    """Make the generation of so many people of a data set; those of them whom adapters have seen."""
    config = opened.settings.build_config()
    known = sorted({row.user_id for row in dataset.interactions})[:people]
    kept = set(known)
    rows = [row for row in dataset.interactions if row.user_id in kept]
    met = {row.item_id for row in rows}  # nobody asks for the others, and a larger catalog takes longer to read
    opened.ledger.import_data([item for item in dataset.items if item.item_id in met], rows, dataset.item_type)
    # Never the bell of the installation, whatever LETHE_REDIS_URL says: its worker has nothing to do here.
    bell = open_bell(None, opened.settings.home / "worker.lock")
    with progress_for_stderr() as progress:
        building.reconciler(opened, bell, progress).rebuild(config)
    bell.close()
    return [user for user in known if not is_validation_user(user, config.validation_percent, config.seed)]


def served_by(opened: Home, port: int, redis_url: str | None = None) -> AbstractContextManager[None]:
    """A server process of that installation, which ends with the block; it has a Redis only where one is named here."""
    environment = _environment(opened) | ({} if redis_url is None else {"LETHE_REDIS_URL": redis_url})
    return serving.running(_server(port), environment, port, opened.settings.home / "server.log")


def _server(port: int) -> list[str]:
    return [sys.executable, "-m", "service.entrypoints", "serve", "--host", serving.HOST, "--port", str(port)]


def _environment(opened: Home) -> dict[str, str]:
    given = {name: value for name, value in opened.settings.environment().items() if name != "LETHE_REDIS_URL"}
    # All load comes from one address, and what is measured is not its quota.
    unbounded = dict.fromkeys(("REQUESTS", "TOKENS", "DELETIONS"), str(10**12))
    return {**given, **{f"LETHE_{kind}_PER_MINUTE": number for kind, number in unbounded.items()}}


@contextmanager
def _model(shape: Shape, given: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The setting of a model that is written for this benchmark, if one is wanted."""
    if shape.value not in SHAPES:
        yield {}
        return
    settings = load_settings(**stated(given))
    with tempfile.TemporaryDirectory() as folder:
        as_set = model_of(settings)
        made = random_model(SHAPES[shape.value], BUNDLED_MODEL, as_set.dtype, as_set.device, settings.seed)
        yield {"model": save_random_model(made, BUNDLED_MODEL, Path(folder)).name}


def _request_shape(text: str) -> RequestShape:
    try:
        context, rest = text.split("+")
        question, items = rest.split("x")
        return RequestShape(int(context), int(question), int(items))
    except ValueError:
        raise InvalidSetting("--requests: expected tokens and candidates as in 120+180x10") from None


def _words(given: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in stated(given).items()}

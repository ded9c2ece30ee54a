"""`lethe bench`: how fast, beside what it could be at best, and beside how others would do the same work."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from adapters_store import Store
from research.benchmarks import forgetting, scoring
from research.benchmarks.models import SHAPES, random_model
from research.benchmarks.report import Section, document, text_of
from research.commands.scratch import scratch_home, stated
from service.building.known import KnownArtifacts
from service.building.planning.corpus import corpus_of
from service.building.progress import Silent
from service.building.training.adapters import AdapterMaker
from service.config import BUNDLED_MODEL, Settings, load_settings
from service.data import importers
from service.entrypoints import building
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import progress_for_stderr
from service.entrypoints.commands.options import BUILD_SETTINGS, JsonOption, with_settings
from service.entrypoints.devices import model_of, served_model
from service.entrypoints.garbage import keep_for_good
from service.errors import InvalidSetting
from service.llm.frozen import FrozenModel
from service.records import BuildConfig

_LIMIT_TO_MEAN = 1.52  # what a shard may hold beside what it holds on average, where the demo's people are divided
MODEL_SETTINGS = ("model", "model_revision", "dtype", "device", "threads")
FORGETTING_SETTINGS = tuple(name for name in BUILD_SETTINGS if name not in ("activation", "max_shard_size"))
OutOption = Annotated[Path | None, typer.Option(help="Also write the JSON into this file")]
RoundsOption = Annotated[int, typer.Option(min=1, help="How often each contestant is timed")]


class Shape(StrEnum):
    """What `--shape` may name: one of SHAPES, or the model that the settings name."""

    CONFIGURED = "configured"
    TINY = "tiny"
    SMALL = "small"
    QWEN3 = "qwen3-0.6b"
    LLAMA_7B = "llama-7b"


@with_settings(MODEL_SETTINGS)
def bench_scoring(
    given: dict[str, Any],
    shape: Annotated[
        Shape, typer.Option(help="Random weights of this shape; `configured`: the model that the settings name")
    ] = Shape.SMALL,
    rounds: RoundsOption = 5,
    rows: Annotated[int, typer.Option(min=2, help="Samples in a batch")] = 16,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of each")] = 256,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a request's context")] = 200,
    question: Annotated[int, typer.Option(min=1, help="Tokens of each of its questions")] = 56,
    candidates: Annotated[str, typer.Option(help="Questions of a request, comma-separated")] = "10,50",
    adapters: Annotated[str, typer.Option(help="K, comma-separated; peers are tried with the first")] = "4,64,256",
    rank: Annotated[int, typer.Option(min=1, help="r of every adapter")] = 8,
    targets: Annotated[str, typer.Option(help="Adapted layers, comma-separated")] = "q_proj,v_proj",
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """The mixture beside the bare model, merged and unmerged LoRA, SISA and PEFT's ways; one context for all candidates."""
    settings = load_settings(**stated(given))
    torch.set_num_threads(settings.scoring_threads())
    load = scoring.Load(
        rows=rows,
        tokens=tokens,
        context=context,
        question=question,
        candidates=_numbers("candidates", candidates, 2),
        adapters=_numbers("adapters", adapters, 2),
        rank=rank,
        targets=tuple(targets.split(",")),
    )
    frozen = _model(shape, settings)
    spec = frozen.spec
    with progress_for_stderr() as progress:
        bench = scoring.Bench(frozen, rounds, progress, _settle(spec.device))
        sections = scoring.measure(bench, load)
    told = {"shape": shape.value, "dtype": spec.dtype, "device": spec.device, "rounds": rounds}
    tell("scoring", told, sections, out, json_)


@with_settings(FORGETTING_SETTINGS)
def bench_forgetting(
    given: dict[str, Any],
    samples: Annotated[int, typer.Option(min=8, help="Training samples in the ledger")] = 1024,
    rounds: RoundsOption = 3,
    tested: Annotated[int, typer.Option(min=2, help="Samples of people never seen, whose answers are judged")] = 1000,
    shards: Annotated[int, typer.Option(min=1, help="About as many; the paper has four")] = 4,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """One simulated person after another forgotten: ours beside full retraining and `prompt` activation."""
    shard = {"max_shard_size": min(samples, math.ceil(samples / shards * _LIMIT_TO_MEAN))}
    stated_ = stated(given)
    ours = stated_ | shard | {"activation": "question"}
    prompt = stated_ | shard | {"activation": "prompt", "adapt_from_layer": 0}  # what others would do
    with scratch_home(ours) as one, scratch_home(prompt) as other, progress_for_stderr() as progress:
        config, dataset = one.settings.build_config(), importers.demo()
        frozen = FrozenModel.load(served_model(one))
        torch.set_num_threads(one.settings.cores())
        crowd = _crowd(dataset, config, samples, rounds, tested)
        ways = [
            forgetting.OurWay(forgetting.OURS, _installation(one), crowd, frozen),
            forgetting.OurWay(forgetting.OURS_ON_PROMPTS, _installation(other), crowd, frozen),
        ]
        keep_for_good()  # as workers do
        sections = forgetting.measure(_retraining(other, crowd, frozen), ways, crowd, progress)
    told = {
        "samples": samples,
        "shards": shards,
        "rounds": rounds,
        **{name: str(value) for name, value in stated_.items()},
    }
    tell("forgetting", told, sections, out, json_)


def tell(name: str, settings: Mapping[str, Any], sections: Sequence[Section], out: Path | None, json_: bool) -> None:
    """The tables, or all of it as JSON; the JSON also into a file."""
    content = json.dumps(document(name, settings, sections), indent=2)
    if out is not None:
        try:
            out.write_text(content + "\n", "utf-8")
        except OSError as error:
            raise InvalidSetting(f"--out cannot be written ({error.strerror})") from error
    typer.echo(content if json_ else "\n\n".join(text_of(section) for section in sections))


def _model(shape: Shape, settings: Settings) -> FrozenModel:
    spec = model_of(settings)
    if shape is Shape.CONFIGURED:
        return FrozenModel.load(spec)
    return random_model(SHAPES[shape.value], BUNDLED_MODEL, spec.dtype, spec.device)


def _settle(device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def _numbers(name: str, text: str, least: int) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidSetting(f"--{name}: expected numbers with commas between them") from error
    if min(found) < least:
        raise InvalidSetting(f"--{name}: expected at least {least}")
    return found


def _crowd(dataset: importers.Dataset, config: BuildConfig, samples: int, rounds: int, tested: int) -> forgetting.Crowd:
    try:
        return forgetting.crowd_of(
            dataset.items, dataset.item_type, dataset.interactions, config, samples, rounds, tested
        )
    except ValueError as error:
        raise InvalidSetting(str(error)) from error


def _installation(home: Home) -> forgetting.Installation:
    bell = forgetting.PublicationBell()
    reconciler = building.reconciler(home, bell)
    return forgetting.Installation(
        home.ledger,
        home.store,
        reconciler,
        bell,
        home.settings.build_config(),
        keeps_prefills=home.settings.prefill_cache_bytes > 0,
    )


def _retraining(home: Home, crowd: forgetting.Crowd, frozen: FrozenModel) -> forgetting.FullRetraining:
    # Beside the worker's own files: nothing erases there what it does not know.
    store = Store(home.settings.home / "retraining")
    known = KnownArtifacts(store.adapters, home.secret)
    spec, config = replace(served_model(home), answers=frozen.tokenizer.answers), home.settings.build_config()
    maker = AdapterMaker(
        known, frozen.tokenizer, spec, building.process_pool(home), Silent(), building.environment(home)
    )
    return forgetting.FullRetraining(maker, store, crowd, corpus_of(home.ledger.view(), config), config, frozen)

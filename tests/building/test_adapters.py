"""Which adapters are missing, and what training leaves in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters_store import Store
from service.building.known import KnownArtifacts
from service.building.progress import Silent
from service.building.training.adapters import AdapterMaker
from service.building.workers.prefill_cache import PrefillCache
from service.data.samples import canonical_order
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import BuildConfig, Item, RatedItem, Sample, Shard
from tests.exactness.homes import SMALLEST_MODEL, InThisProcess

CONFIG = BuildConfig(lora_rank=2, lora_alpha=4, epochs=1, batch_size=4, activation="prompt")
ITEMS = [Item(f"i{n}", f"Film {n}") for n in range(8)]
SAMPLES = tuple(Sample(f"u{n}", (RatedItem(ITEMS[n], True),), ITEMS[n + 1], n % 2 == 0) for n in range(7))


class DiesAfterOne(InThisProcess):
    def run(
        self,
        function: Callable[[Any, Any], Any],
        tasks: Sequence[Any],
        on_steps: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, Any]]:
        yield from super().run(function, tasks[:1], on_steps)
        raise KeyboardInterrupt


@pytest.fixture
def maker_with(tiny_models: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[AdapterMaker, Store]]:
    def made(process_pool: InThisProcess, environment: str = "here") -> tuple[AdapterMaker, Store]:
        spec, store = ModelSpec(str(tiny_models("llama", **SMALLEST_MODEL))), Store(tmp_path / "store")
        return AdapterMaker(
            KnownArtifacts(store.adapters, b"a secret"),
            PromptTokenizer.load(spec),
            spec,
            process_pool,
            Silent(),
            {"machine": environment},
        ), store

    return made


def shards(maker: AdapterMaker) -> dict[str, Shard]:
    """Two shards by the digests of their adapters."""
    parts = (SAMPLES[:4], SAMPLES[4:])
    cut = [Shard(str(number), canonical_order(part, CONFIG.seed)) for number, part in enumerate(parts)]
    return {maker.digest(shard, "movie", CONFIG): shard for shard in cut}


def test_what_is_trained_is_missing_no_more_until_it_is_damaged(
    maker_with: Callable[..., tuple[AdapterMaker, Store]],
) -> None:
    maker, store = maker_with(InThisProcess())
    first, second = shards(maker)
    assert maker.missing([first, second]) == [first, second]
    maker.train(shards(maker), "movie", CONFIG)
    assert maker.missing([first, second]) == []
    weights = store.adapters.path(second) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert maker.missing([first, second]) == [second]
    assert store.adapters.digests() == [first]


def test_what_was_finished_before_a_death_is_kept(maker_with: Callable[..., tuple[AdapterMaker, Store]]) -> None:
    maker, _ = maker_with(DiesAfterOne())
    with pytest.raises(KeyboardInterrupt):
        maker.train(shards(maker), "movie", CONFIG)
    assert maker.missing(list(shards(maker))) == list(shards(maker))[1:]


def test_the_order_in_which_samples_come_does_not_name_an_adapter_but_the_machine_does(
    maker_with: Callable[..., tuple[AdapterMaker, Store]],
) -> None:
    maker, _ = maker_with(InThisProcess())
    elsewhere, _ = maker_with(InThisProcess(), "elsewhere")
    shard, shuffled = (Shard("0", canonical_order(samples, 0)) for samples in (SAMPLES, SAMPLES[::-1]))
    assert maker.digest(shard, "movie", CONFIG) == maker.digest(shuffled, "movie", CONFIG)
    assert maker.digest(shard, "movie", CONFIG) != elsewhere.digest(shard, "movie", CONFIG)


def test_the_layers_that_adapters_are_on_name_them(maker_with: Callable[..., tuple[AdapterMaker, Store]]) -> None:
    maker, _ = maker_with(InThisProcess())
    shard = Shard("0", canonical_order(SAMPLES, 0))
    assert maker.digest(shard, "movie", CONFIG) != maker.digest(shard, "movie", replace(CONFIG, adapt_from_layer=1))


class Watched(InThisProcess):
    """Notes what is run, and on how many tasks."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []

    def run(
        self,
        function: Callable[[Any, Any], Any],
        tasks: Sequence[Any],
        on_steps: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, Any]]:
        self.ran.append((function.__name__, len(tasks)))
        yield from super().run(function, tasks, on_steps)


def test_processes_that_would_wait_read_contexts_of_people_who_are_not_kept(
    tiny_models: Callable[..., Path], tmp_path: Path
) -> None:
    spec, store, pool = ModelSpec(str(tiny_models("llama"))), Store(tmp_path / "store"), Watched()
    known = KnownArtifacts(store.adapters, b"a secret")
    maker = AdapterMaker(known, PromptTokenizer.load(spec), spec, pool, Silent(), {}, PrefillCache(2**24))
    config, (few, many) = replace(CONFIG, activation="question"), (SAMPLES[:4], SAMPLES)
    for samples in (few, many, few):
        maker.train({maker.digest(Shard("0", samples), "movie", config): Shard("0", samples)}, "movie", config)
    both = {maker.digest(Shard("0", part), "movie", config): Shard("0", part) for part in (SAMPLES[:2], SAMPLES[5:])}
    maker.train(both, "movie", config)
    assert pool.ran == [
        *(("read_contexts", 2), ("train_adapter", 1)),  # all four people
        *(("read_contexts", 2), ("train_adapter", 1)),  # the other three
        ("train_adapter", 1),  # everybody is known
        ("train_adapter", 2),  # a shard for each process
    ]

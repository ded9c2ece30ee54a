"""A day of an online service in short, with the demo's people; `make day` is a long one, with real people."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from lethe_client import Client
from service.data import importers
from tests.client.generated import GeneratedClient, generated_from
from tests.forks import Forks

from .runner import Meets, live
from .story import Plan


@contextmanager
def a_generated_client(url: str) -> Iterator[GeneratedClient]:
    """A client that was made from the document of the server that it asks."""
    document = httpx.get(f"{url}/openapi.json").text
    with (
        tempfile.TemporaryDirectory() as folder,
        generated_from(document, Path(folder)) as module,
        closing(GeneratedClient(module, url)) as client,
    ):
        yield client


@pytest.mark.thorough
@pytest.mark.parametrize("meet", [Client, a_generated_client])
def test_after_a_day_of_the_demo_the_model_is_that_of_a_clean_import(
    meet: Meets, tmp_path: Path, tiny_models: Callable[..., Path], forks: Forks
) -> None:
    demo = importers.demo()
    few = replace(demo, interactions=[row for row in demo.interactions if row.user_id < "demo-060"])
    plan = Plan(streamed=1_200, batch=40, deletions=5, hidden=5)
    told = live(few, plan, tiny_models("llama"), tmp_path, forks, meet, LETHE_MAX_SHARD_SIZE="200")
    assert told.generation == told.clean_generation
    assert "byte for byte" in told.verified
    assert told.receipts >= plan.deletions
    assert told.new_items > 0
    assert told.hidden == plan.hidden
    assert told.answers >= 60
    assert told.events["forgotten"] > 0


@pytest.mark.slow
def test_after_a_day_of_movielens_the_model_is_that_of_a_clean_import(
    tmp_path: Path, tiny_models: Callable[..., Path], forks: Forks, shared_data: Path
) -> None:
    plan = Plan(streamed=50_000)
    told = live(importers.movielens(shared_data / "ml-100k"), plan, tiny_models("llama"), tmp_path, forks)
    print("\n".join(told.lines()))
    assert told.generation == told.clean_generation
    assert "byte for byte" in told.verified
    assert told.events.total() == plan.streamed
    assert told.receipts >= plan.deletions

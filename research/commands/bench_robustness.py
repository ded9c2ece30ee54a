"""`lethe bench robustness`: how far a title outside the catalog can be worded up, against a real server."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import httpx
import typer

from research.benchmarks import robustness, serving
from research.commands.bench import OutOption, tell
from research.commands.bench_load import built_of, served_by
from research.commands.scratch import scratch_home, stated
from service.config import load_settings
from service.data import importers
from service.entrypoints.commands.console import progress_for_stderr
from service.entrypoints.commands.options import BUILD_SETTINGS, JsonOption, with_settings
from service.errors import InvalidSetting
from service.records import Item

_SMALL = {"max_shard_size": 512}  # some shards, built within a minute


@with_settings(BUILD_SETTINGS)
def bench_robustness(
    given: dict[str, Any],
    titles: Annotated[int, typer.Option(min=1, max=100, help="Outside the catalog; each is attacked")] = 20,
    candidates: Annotated[int, typer.Option(min=2, max=200, help="Among which the title is to win")] = 99,
    steps: Annotated[int, typer.Option(min=1, help="Words of the suffix")] = robustness.STEPS,
    tried: Annotated[int, typer.Option(min=1, max=200, help="Words tried at each step")] = robustness.WORDS_OF_A_STEP,
    people: Annotated[int, typer.Option(min=20, max=400, help="Simulated people of whom the generation is made")] = 120,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """A greedy suffix on a title that no catalog holds, found by scores alone, against a real server over HTTP."""
    seed = load_settings(**stated(given)).seed  # of titles, people and words, too
    chance, demo = random.Random(seed), importers.demo()
    outside = chance.sample(sorted(demo.items, key=lambda item: item.item_id), titles)
    left_out = {item.item_id for item in outside}
    catalog = [item for item in demo.items if item.item_id not in left_out]
    if len(catalog) < candidates:
        raise InvalidSetting("--candidates and --titles ask for more items than the demo has")
    rows = [row for row in demo.interactions if row.item_id not in left_out]
    with scratch_home(_SMALL | stated(given)) as opened, progress_for_stderr() as progress:
        users = built_of(opened, replace(demo, items=catalog, interactions=rows), people)
        port = serving.free_port()
        with served_by(opened, port), httpx.Client(base_url=f"http://{serving.HOST}:{port}", timeout=60) as client:
            known = sorted(opened.ledger.items_by_id([item.item_id for item in catalog]))  # that those people met
            cases = [
                robustness.Case(chance.choice(users), item.title, tuple(chance.sample(known, candidates - 1)))
                for item in outside
            ]
            attack = robustness.Attack(_ask(client), _words(catalog), seed, steps, tried)
            sections = robustness.measure(attack, cases, progress)
    told = {"titles": titles, "candidates": candidates, "scorings": steps * tried, "people": people, "seed": seed}
    tell("robustness", told, sections, out, json_)


def _ask(client: httpx.Client) -> robustness.Ask:
    def asked(body: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = client.post("/recommend", json=body)
        answer.raise_for_status()
        found: Mapping[str, Any] = answer.json()
        return found

    return asked


def _words(catalog: Sequence[Item]) -> list[str]:
    return sorted({word for item in catalog for word in item.title.split()})

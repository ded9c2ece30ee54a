"""`lethe evaluate forgetting`: what a deletion touches and leaves, in scratch folders that are removed afterwards."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from research.commands.scratch import scratch_home, stated
from research.commands.tables import print_table
from research.evaluation import forgetting
from research.evaluation.placement import PlacementRow, placement_table
from service.building.builder import Builder
from service.building.planning.corpus import corpus_of
from service.building.planning.placement import ShardAssigner
from service.building.progress import Progress
from service.config import load_settings
from service.data import importers
from service.entrypoints import building
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import print_report, progress_for_stderr
from service.entrypoints.commands.options import (
    BUILD_SETTINGS,
    JsonOption,
    with_settings,
)
from service.entrypoints.devices import served_model
from service.forgetting.bell import open_bell
from service.llm.tokenizer import PromptTokenizer
from service.records import Interaction, UnitKind

FolderArgument = Annotated[Path, typer.Argument(help="MovieLens 100K")]


class Part(StrEnum):
    """The halves of `lethe evaluate forgetting`."""

    PLACEMENT = "placement"
    STORY = "story"


@with_settings(BUILD_SETTINGS)
def evaluate_forgetting(
    folder: FolderArgument,
    given: dict[str, Any],
    only: Annotated[Part | None, typer.Option(help="Leave the other part out.")] = None,
    users: Annotated[int | None, typer.Option(min=20, help="People drawn from the files; default: all of them")] = None,
    tried: Annotated[int, typer.Option(min=1, help="People whose deletion the placement table tries")] = 100,
    forgotten: Annotated[int, typer.Option(min=1, help="People whom the story forgets")] = 10,
    json_: JsonOption = False,
) -> None:
    """What a deletion costs under each partition, and one deletion's story: exactness, quality, membership inference.

    The placement table tries both units, unless --unit names one. The story is built as the settings say.
    """
    dataset = importers.movielens(folder)
    with progress_for_stderr() as progress:
        if users is not None:
            drawn = _drawn(dataset.interactions, users, load_settings(**stated(given)).seed)
            dataset = dataclasses.replace(dataset, interactions=drawn)
        table = [] if only is Part.STORY else _placement(dataset, given, tried, progress)
        story = None if only is Part.PLACEMENT else _story(dataset, given, forgotten, progress)
    if json_:
        rows = [dataclasses.asdict(row) for row in table]
        print_report({"placement": rows, "story": dataclasses.asdict(story) if story else None}, json_)
        return
    if table:
        print_table("shards touched by deleting one person", [dataclasses.asdict(row) for row in table])
    if story:
        told = dataclasses.asdict(story)
        print_table("answers for people never seen, and membership inference", told.pop("measured"))
        print_report(told, json_)


def _placement(
    dataset: importers.Dataset, given: Mapping[str, Any], tried: int, progress: Progress
) -> list[PlacementRow]:
    with scratch_home(stated(given)) as opened:
        opened.ledger.import_data(dataset.items, dataset.interactions, dataset.item_type)
        config = opened.settings.build_config()
        units: Sequence[UnitKind] = (config.unit,) if given["unit"] else ("user", "sample")
        corpus = corpus_of(opened.ledger.view(), config)
        return placement_table(corpus, _assigner(opened, progress), config, units, tried, progress)


def _story(
    dataset: importers.Dataset, given: Mapping[str, Any], forgotten: int, progress: Progress
) -> forgetting.Story:
    with scratch_home(stated(given)) as opened, scratch_home(stated(given) | _same_secret(opened)) as clean:
        config = opened.settings.build_config()
        imported, kept = forgetting.set_aside(dataset.interactions, config.seed)
        opened.ledger.import_data(dataset.items, imported, dataset.item_type)

        def clean_builder(gone: frozenset[str]) -> Builder:
            if config.partition == "algorithm1":
                # The claim is relative to the recorded partition, which only this ledger holds.
                return building.dry_run_builder(opened, clean.store, progress)
            clean.ledger.import_data(
                dataset.items, [row for row in imported if row.user_id not in gone], dataset.item_type
            )
            return building.builder(clean, progress)

        # Never the bell of the installation, whatever LETHE_REDIS_URL says: its worker has nothing to do here.
        bell = open_bell(None, opened.settings.home / "worker.lock")
        stage = forgetting.Stage(
            ledger=opened.ledger,
            store=opened.store,
            reconciler=building.reconciler(opened, bell, progress),
            clean_store=clean.store,
            clean_builder=clean_builder,
            precisions=forgetting.precisions(served_model(opened)),
        )
        test = forgetting.samples_by_user(kept, dataset.items, config)
        told = forgetting.tell(stage, test, config, forgotten)
        bell.close()
        return told


def _assigner(opened: Home, progress: Progress) -> ShardAssigner:
    model = served_model(opened)
    return ShardAssigner(
        opened.ledger,
        PromptTokenizer.load(model),
        model,
        building.process_pool(opened),
        progress,
        building.environment(opened),
    )


def _same_secret(opened: Home) -> dict[str, str]:
    # Validation rows are known by keyed hashes, so with another key no generation would have the same bytes.
    return {"secret": opened.secret.decode()}


def _drawn(interactions: Sequence[Interaction], users: int, seed: int) -> list[Interaction]:
    known = sorted({row.user_id for row in interactions})
    kept = set(random.Random(seed).sample(known, min(users, len(known))))
    return [row for row in interactions if row.user_id in kept]

"""The forgetting benchmark on a tiny model: everybody forgets the same people, and what is timed ends with publication."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters_store import Store
from research.benchmarks.forgetting import (
    OURS,
    OURS_ON_PROMPTS,
    RETRAINING,
    Crowd,
    FullRetraining,
    Installation,
    OurWay,
    PublicationBell,
    crowd_of,
    measure,
)
from service.building.builder import Builder
from service.building.known import KnownArtifacts
from service.building.planning.corpus import corpus_of
from service.building.progress import Silent
from service.building.training.adapters import AdapterMaker
from service.building.workers.prefill_cache import PrefillCache
from service.data.samples import is_validation_user
from service.entrypoints.commands.main import app
from service.errors import InvalidSetting
from service.forgetting.reconcile import Reconciler
from service.ledger import Ledger
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.records import BuildConfig, Interaction
from tests.exactness.homes import SECRET, SIGNER, SMALLEST_MODEL, InThisProcess, items_named, likings

pytestmark = pytest.mark.thorough

CONFIG = BuildConfig(
    max_shard_size=12,
    tree_depth=1,
    samples_per_user=4,
    history_length=3,
    validation_percent=20,
    lora_rank=2,
    epochs=1,
    batch_size=8,
    top_n=5,
)
ITEMS = items_named(20)
ROWS = likings([f"person-{n}" for n in range(40)], ITEMS, 5, 7)
ENVIRONMENT = {"machine": "any"}


@pytest.fixture(scope="module")
def spec(tiny_models: Callable[..., Path]) -> ModelSpec:
    return ModelSpec(str(tiny_models("llama", **SMALLEST_MODEL)))


@pytest.fixture
def crowd() -> Crowd:
    return crowd_of(ITEMS, "movie", ROWS, CONFIG, samples=32, forgotten=2, tested=20)


def installation(folder: Path, spec: ModelSpec, config: BuildConfig) -> Installation:
    folder.mkdir()
    ledger, store, bell = (
        Ledger(f"sqlite:///{folder}/ledger.sqlite", SECRET),
        Store(folder / "store"),
        PublicationBell(),
    )
    prefill_cache = PrefillCache(2**24)
    builder = Builder(
        ledger, store, spec, InThisProcess(), SECRET, environment=ENVIRONMENT, prefill_cache=prefill_cache
    )
    reconciler = Reconciler(ledger, store, builder, bell, SIGNER, config)
    return Installation(ledger, store, reconciler, bell, config, keeps_prefills=True)


def people(rows: tuple[Interaction, ...]) -> set[str]:
    return {row.user_id for row in rows}


def test_all_forget_the_same_people_and_are_judged_by_people_never_seen(
    crowd: Crowd, spec: ModelSpec, tmp_path: Path
) -> None:
    frozen, prompt = FrozenModel.load(spec), replace(CONFIG, activation="prompt")
    one, other = (installation(tmp_path / config.activation, spec, config) for config in (CONFIG, prompt))
    ours = [OurWay(OURS, one, crowd, frozen), OurWay(OURS_ON_PROMPTS, other, crowd, frozen)]
    corpus = corpus_of(other.ledger.view(), prompt)
    store = Store(tmp_path / "retraining")
    maker = AdapterMaker(
        KnownArtifacts(store.adapters, SECRET), frozen.tokenizer, spec, InThisProcess(), Silent(), ENVIRONMENT
    )
    retraining = FullRetraining(maker, store, crowd, corpus, prompt, frozen)

    race, after, goals = measure(retraining, ours, crowd)

    for here in (one, other):
        assert set(here.ledger.view().interactions) == people(crowd.imported) - set(crowd.forgotten)
        assert here.ledger.pending() == []
    floors = {row["contestant"]: row["floor GFLOP/person"] for row in race.rows}
    assert 0 < floors[OURS] < floors[OURS_ON_PROMPTS] < floors[RETRAINING]
    assert all(row["rounds"] == 2 and row["s/person"] > 0 for row in race.rows)
    left = sum(len(own) for user, own in corpus.training.items() if user not in crowd.forgotten)
    facts = {row["contestant"]: row for row in after.rows}
    assert facts[RETRAINING]["samples retrained"] == left
    assert 0 < facts[OURS]["samples retrained"] < left
    assert all(0 <= row["AUC of people never seen"] <= 1 for row in after.rows)
    assert len(goals.rows) == 4
    for row in race.rows[1:]:
        # Erasing and the receipt come after publication.
        assert facts[row["contestant"]]["masked to completed, s"] > row["s/person"]
    assert len(store.adapters.digests()) == 2  # one adapter a round, each without one person more


def test_the_crowd_splits_into_people_who_are_known_and_people_who_are_not(crowd: Crowd) -> None:
    known = people(crowd.imported)
    assert known.isdisjoint({sample.user_id for sample in crowd.test})
    trained = {user for user in known if not is_validation_user(user, CONFIG.validation_percent, CONFIG.seed)}
    assert set(crowd.forgotten) <= trained
    assert 32 - CONFIG.samples_per_user < sum(min(4, _rows(crowd, user) - 1) for user in trained) <= 32


def test_too_few_people_are_refused() -> None:
    with pytest.raises(ValueError, match="too few people"):
        crowd_of(ITEMS, "movie", ROWS, CONFIG, samples=10_000, forgotten=2, tested=40)


def test_the_bell_notes_the_first_ring_only() -> None:
    bell = PublicationBell()
    bell.ring()
    first = bell.rung_at
    bell.ring()
    assert first is not None
    assert bell.rung_at == first


def test_the_command_says_what_is_wrong_with_its_options() -> None:
    options = ["--samples", "6000", "--history-length", "3"]
    done = CliRunner().invoke(app, ["bench", "forgetting", *options])
    assert isinstance(done.exception, InvalidSetting)


@pytest.mark.slow
def test_the_command_forgets_simulated_people() -> None:
    options = ["--samples", "96", "--rounds", "1", "--tested", "32", "--epochs", "1", "--samples-per-user", "8"]
    done = CliRunner().invoke(app, ["bench", "forgetting", *options, "--json"], catch_exceptions=False)
    assert done.exit_code == 0


def _rows(crowd: Crowd, user: str) -> int:
    return sum(row.user_id == user for row in crowd.imported)

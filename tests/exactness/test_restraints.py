"""Restricted, somebody is out of what is built, byte for byte; and when it is lifted, all is as it was, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.data.samples import is_validation_user
from service.ledger import Event
from service.llm.spec import ModelSpec
from service.records import BuildConfig, Interaction, UnitKind
from tests.exactness.homes import NOUN, SMALLEST_MODEL, Home, RememberingPublicTexts, items_named, likings

CONFIG = BuildConfig(
    max_shard_size=12,
    tree_depth=1,
    samples_per_user=3,
    history_length=2,
    validation_percent=20,
    lora_rank=1,
    lora_alpha=2,
    epochs=1,
    batch_size=4,
)
ITEMS = items_named(10)
USERS = [f"person-{number}" for number in range(24)]
ROWS = likings(USERS, ITEMS, 4, 6)
TRAINS = next(user for user in USERS if not is_validation_user(user, CONFIG.validation_percent, CONFIG.seed))
VALIDATES = next(user for user in USERS if is_validation_user(user, CONFIG.validation_percent, CONFIG.seed))
PUBLIC_TEXTS = RememberingPublicTexts()


@pytest.fixture
def homes(tiny_models: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[..., Home]]:
    """A function that makes a home of these rows, built."""
    opened: list[Home] = []

    def made(config: BuildConfig = CONFIG, rows: list[Interaction] = ROWS) -> Home:
        model = ModelSpec(str(tiny_models("llama", **SMALLEST_MODEL)))
        home = Home(tmp_path / f"home-{len(opened)}", model, config, PUBLIC_TEXTS)
        opened.append(home)
        home.ledger.import_data(ITEMS, rows, NOUN)
        home.build()
        return home

    yield made
    for home in opened:
        home.close()


def without(user: str) -> list[Interaction]:
    return [row for row in ROWS if row.user_id != user]


@pytest.mark.parametrize("subject", [TRAINS, pytest.param(VALIDATES, marks=pytest.mark.thorough)])
def test_a_restricted_person_counts_nowhere_and_a_released_one_as_before(
    homes: Callable[..., Home], subject: str
) -> None:
    home, clean = homes(), homes(rows=without(subject))
    before = home.ledger.generation(), home.files()
    arrived = Interaction(USERS[2], ITEMS[9].item_id, True, 20_000)
    home.ledger.take_events([Event(arrived), Event(replace(arrived, user_id=subject))])
    home.restraints.restrict(subject, "objection")
    assert home.reconcile_once()
    assert (home.ledger.generation(), home.files()) == (clean.ledger.generation(), clean.files())
    assert home.ledger.mask().empty
    assert not home.reconcile_once()
    assert home.restraints.lift_restriction(subject).rows == sum(row.user_id == subject for row in ROWS) + 1
    assert home.reconcile_once()
    assert (home.ledger.generation(), home.files()) == before
    assert home.ledger.mask().empty
    assert not home.reconcile_once()


@pytest.mark.thorough
@pytest.mark.parametrize("unit", ["user", "sample"])
def test_under_a_recorded_partition_a_released_person_is_where_they_were(
    homes: Callable[..., Home], unit: UnitKind
) -> None:
    home = homes(replace(CONFIG, partition="algorithm1", unit=unit))
    before = home.ledger.generation(), home.files()
    home.restraints.restrict(TRAINS, "restriction")
    assert home.reconcile_once()
    assert home.ledger.generation() != before[0]
    home.restraints.lift_restriction(TRAINS)
    assert home.reconcile_once()
    assert (home.ledger.generation(), home.files()) == before


@pytest.mark.thorough
def test_a_full_build_meanwhile_counts_for_the_released_person_too(homes: Callable[..., Home]) -> None:
    home = homes()
    later = [Interaction(user, ITEMS[9].item_id, True, 20_000) for user in (TRAINS, USERS[2])]
    home.ledger.take_events([Event(row) for row in later])
    home.restraints.restrict(TRAINS, "restriction")
    home.build()
    home.restraints.lift_restriction(TRAINS)
    assert home.reconcile_once()
    newest = {(row.user_id, row.item_id): row for row in [*ROWS, *later]}
    clean = homes(rows=list(newest.values()))
    assert (home.ledger.generation(), home.files()) == (clean.ledger.generation(), clean.files())


@pytest.mark.thorough
def test_a_held_deletion_is_out_of_what_is_built_and_erased_when_the_hold_is_released(
    homes: Callable[..., Home],
) -> None:
    home, clean = homes(), homes(rows=without(TRAINS))
    expected = clean.ledger.generation(), clean.files()
    home.restraints.hold(TRAINS, "court order")
    request = home.forget(TRAINS)
    assert home.reconcile_once()
    assert (home.ledger.generation(), home.files()) == expected
    assert home.ledger.mask().empty
    assert home.ledger.request(request.request_id).state == "held"
    assert any(TRAINS.encode() in path.read_bytes() for path in home.folder.iterdir() if path.is_file())
    assert not home.reconcile_once()
    home.restraints.release_hold(TRAINS)
    assert home.reconcile_once()
    done = home.ledger.request(request.request_id)
    assert (done.state, done.receipt is not None) == ("completed", True)
    assert (home.ledger.generation(), home.files()) == expected
    assert not any(TRAINS.encode() in path.read_bytes() for path in home.folder.iterdir() if path.is_file())

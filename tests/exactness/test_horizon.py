"""However much arrives while a generation is served: a deletion trains one adapter, and a new item none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.data.samples import is_validation_user
from service.ledger import Event, EventOutcome
from service.llm.spec import ModelSpec
from service.records import BuildConfig, CatalogEntry, Interaction, Item
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
TRAINING = [user for user in USERS if not is_validation_user(user, CONFIG.validation_percent, CONFIG.seed)]
ROWS = likings(USERS, ITEMS, 4, 6)
PUBLIC_TEXTS = RememberingPublicTexts()


@pytest.fixture
def homes(tiny_models: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[..., Home]]:
    """A function that makes a home: of everybody, built."""
    opened: list[Home] = []

    def made(config: BuildConfig = CONFIG) -> Home:
        model = ModelSpec(str(tiny_models("llama", **SMALLEST_MODEL)))
        opened.append(Home(tmp_path / f"home-{len(opened)}", model, config, PUBLIC_TEXTS))
        return opened[-1]

    yield made
    for home in opened:
        home.close()


def built(home: Home, rows: list[Interaction] = ROWS, items: list[Item] = ITEMS) -> Home:
    home.ledger.import_data(items, rows, NOUN)
    home.build()
    return home


def stream_in(home: Home, count: int) -> None:
    """Rows of everybody and of many strangers, all newer than what is held."""
    people = [*USERS, *(f"stranger-{number}" for number in range(count // 10))]
    told = [
        Event(Interaction(people[n % len(people)], ITEMS[n // len(people) % len(ITEMS)].item_id, n % 3 > 0, 10_000 + n))
        for n in range(count)
    ]
    for first in range(0, count, 10_000):
        assert EventOutcome.FORGOTTEN not in home.ledger.take_events(told[first : first + 10_000])


@pytest.mark.parametrize("count", [2_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_a_deletion_trains_one_adapter_however_much_lies_beyond_the_horizon(
    homes: Callable[[], Home], count: int
) -> None:
    home, subject = built(homes()), TRAINING[0]
    before = home.adapters()
    stream_in(home, count)
    assert home.ledger.beyond_horizon() >= count - len(USERS)
    home.forget(subject)
    assert home.reconcile_once()
    after = home.adapters()
    assert len(before) >= 4
    assert len(before.keys() - after.keys()) == 1
    assert len(after.keys() - before.keys()) == 1
    assert {digest: after[digest] for digest in after.keys() & before.keys()} == {
        digest: before[digest] for digest in after.keys() & before.keys()
    }
    clean = built(homes(), [row for row in ROWS if row.user_id != subject])
    assert (home.ledger.generation(), home.files()) == (clean.ledger.generation(), clean.files())


@pytest.mark.thorough
def test_a_full_build_is_that_of_a_clean_import_of_everything(homes: Callable[[], Home]) -> None:
    home = built(homes())
    later = [Interaction(user, item.item_id, True, 20_000) for user in USERS[:3] for item in ITEMS[:2]]
    home.ledger.take_events([Event(row) for row in later])
    home.build()
    newest = {(row.user_id, row.item_id): row for row in [*ROWS, *later]}
    clean = built(homes(), list(newest.values()))
    assert (home.ledger.generation(), home.files()) == (clean.ledger.generation(), clean.files())


@pytest.mark.thorough
@pytest.mark.parametrize("negatives", [pytest.param(0, marks=pytest.mark.thorough), 2])
def test_a_new_item_makes_a_generation_of_the_same_adapters_and_memories(
    homes: Callable[..., Home], negatives: int
) -> None:
    config = replace(CONFIG, negatives=negatives)
    home = built(homes(config))
    before, manifest = home.adapters(), home.manifest()
    brought = Item("item-9a", "Film between the others (2001)", None, ("Drama",))
    home.ledger.put_items([CatalogEntry(brought), CatalogEntry(replace(ITEMS[0], title="Another title"))])
    home.ledger.delete_item(ITEMS[1].item_id)
    assert home.reconcile_once()
    assert home.adapters() == before
    assert (home.manifest()["adapters"], home.manifest()["memories"]) == (manifest["adapters"], manifest["memories"])
    served = home.store.generation(home.ledger.generation() or "").read("items.json").decode()
    assert "item-9a" in served
    assert f'"{ITEMS[1].item_id}"' in served  # counts name it, until the horizon moves; nobody is shown it
    assert not home.reconcile_once()
    home.build()  # now they count
    gone = ITEMS[1].item_id
    items = [brought, replace(ITEMS[0], title="Another title"), *ITEMS[2:]]
    clean = built(homes(config), [row for row in ROWS if row.item_id != gone], items)
    assert (home.ledger.generation(), home.files()) == (clean.ledger.generation(), clean.files())


def test_a_hidden_item_makes_no_generation(homes: Callable[[], Home]) -> None:
    home = built(homes())
    home.ledger.put_items([CatalogEntry(ITEMS[0], hidden=True)])
    assert not home.reconcile_once()


def test_a_full_build_that_was_cut_off_is_made_again_without_anybody_asking(homes: Callable[[], Home]) -> None:
    home = built(homes())
    home.ledger.take_events([Event(Interaction(USERS[0], ITEMS[9].item_id, True, 20_000))])
    assert not home.reconcile_once()
    home.ledger.advance_horizon()  # and no further
    assert home.reconcile_once()
    assert not home.ledger.is_behind()

"""What is planned from memory is what would be planned from everybody's interactions, and nobody else's are read for it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from service.building.planning.corpus import corpus_of
from service.building.planning.incremental_plan import IncrementalPlanner, NotAsRemembered
from service.building.planning.placement import ShardAssigner
from service.building.planning.plan import Plan, WholePlan
from service.building.progress import Silent
from service.data.samples import is_validation_user
from service.ledger import Ledger, ReadTransaction
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import BuildConfig, Interaction, LedgerView
from tests.exactness.homes import (
    NOUN,
    SECRET,
    SMALLEST_MODEL,
    Home,
    RememberingPublicTexts,
    items_named,
    likings,
)

pytestmark = pytest.mark.thorough

CONFIG = BuildConfig(
    max_shard_size=10,
    tree_depth=2,
    samples_per_user=3,
    history_length=2,
    validation_percent=30,
    lora_rank=1,
    lora_alpha=2,
    epochs=1,
    batch_size=4,
)
VARIANTS = {
    "tree-user": CONFIG,
    "tree-sample": replace(CONFIG, unit="sample"),
    "random-user": replace(CONFIG, partition="random"),
}
ITEMS = items_named(10)
USERS = [f"person-{number}" for number in range(24)]
ROWS = likings(USERS, ITEMS, 1, 6)
VALIDATING = {user for user in USERS if is_validation_user(user, CONFIG.validation_percent, CONFIG.seed)}
PUBLIC_TEXTS = RememberingPublicTexts()


@pytest.fixture
def model(tiny_models: Callable[..., Path]) -> ModelSpec:
    return ModelSpec(str(tiny_models("llama", **SMALLEST_MODEL)))


@pytest.fixture
def home_with(model: ModelSpec, tmp_path: Path) -> Iterator[Callable[..., Home]]:
    """A function: kind of ledger -> a home of everybody, not built."""
    homes: list[Home] = []

    def made(ledger: type[Ledger] = Ledger) -> Home:
        homes.append(Home(tmp_path / f"home-{len(homes)}", model, CONFIG, PUBLIC_TEXTS, ledger))
        homes[-1].ledger.import_data(ITEMS, ROWS, NOUN)
        return homes[-1]

    yield made
    for home in homes:
        home.close()


# The same plan


class World:
    """A ledger to which something happens again and again."""

    def __init__(self, folder: Path, model: ModelSpec, chance: random.Random) -> None:
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db", SECRET)
        self.model = model
        self.planner = IncrementalPlanner(self.ledger, self.assigner())
        self.chance, self.titles = chance, 0
        self.ledger.import_data(ITEMS, chance.sample(ROWS, 60), NOUN)

    def assigner(self) -> ShardAssigner:
        """One that has not placed anybody yet."""
        return ShardAssigner(self.ledger, PromptTokenizer.load(self.model), self.model, PUBLIC_TEXTS, Silent(), {})

    def something_happens(self) -> None:
        self.chance.choice(
            [
                self.some_come,
                self.some_change,
                self.somebody_leaves,
                self.an_opinion_goes,
                self.an_item_changes,
                self.an_item_goes,
                self.the_horizon_moves,
            ]
        )()

    def some_come(self) -> None:
        self.ledger.import_data([], self.chance.sample(ROWS, 4), None, allow_returning=True)

    def some_change(self) -> None:
        changed = [
            replace(row, liked=self.chance.random() < 0.5, timestamp=self.chance.randrange(1000))
            for row in self.held(2)
        ]
        self.ledger.import_data([], changed, None)

    def somebody_leaves(self) -> None:
        self.ledger.forget(self.chance.choice(USERS), None, None)

    def an_opinion_goes(self) -> None:
        for row in self.held(1):
            self.ledger.forget(row.user_id, [row.item_id], None)

    def an_item_changes(self) -> None:
        self.titles += 1
        self.ledger.import_data([replace(self.chance.choice(ITEMS), title=f"Other {self.titles} (2001)")], [], None)

    def an_item_goes(self) -> None:
        there = self.ledger.entries_after(None, 50)
        if len(there) > len(ITEMS) - 2:
            self.ledger.delete_item(self.chance.choice(there).item.item_id)

    def the_horizon_moves(self) -> None:
        self.ledger.advance_horizon()

    def held(self, count: int) -> list[Interaction]:
        rows = [row for own in self.ledger.view().interactions.values() for row in own]
        return self.chance.sample(rows, min(count, len(rows)))


def everything(plan: Plan) -> dict[str, Any]:
    """All that a plan can tell."""
    names, users = [shard.name for shard in plan.shards], [user.user_id for user in plan.users]
    material = plan.material(names, users)
    return {
        "fence": plan.fence,
        "items": (plan.item_type, plan.items),
        "shards": list(plan.shards),
        "users": list(plan.users),
        "people": {name: dict(plan.people(name)) for name in names},
        "samples": {name: material.shard(name) for name in names},
        "lessons": {user: material.samples(user) for user in users},
    }


def is_the_slow_plan(world: World, transaction: ReadTransaction, config: BuildConfig) -> bool:
    """Whether there was a plan from memory to be compared; there is none once the catalog has moved the planes."""
    plan = world.planner.plan(transaction, config)
    if plan is None:
        return False
    slow = WholePlan(corpus_of(transaction.view(), config), world.assigner(), config, transaction.fence)
    assert everything(plan) == everything(slow)
    return True


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_plan_from_memory_is_the_plan_of_everybodys_interactions(
    model: ModelSpec, tmp_path: Path, name: str, seed: int
) -> None:
    config, chance = VARIANTS[name], random.Random(seed)
    world = World(tmp_path, model, chance)
    world.planner.refresh(config)
    from_memory = when_due = 0
    for step in range(14):
        if step % 3 == 0:
            world.ledger.begin_full_build()
        for _ in range(chance.randint(1, 3)):
            world.something_happens()
        if chance.random() < 0.5:  # else it happened after those who had changed before were read
            world.planner.refresh(config)
        with world.ledger.read_transaction() as transaction:
            from_memory += is_the_slow_plan(world, transaction, config)
        if world.ledger.is_full_build_under_way():
            with world.ledger.read_transaction_when_due() as transaction:
                when_due += is_the_slow_plan(world, transaction, config)
    assert from_memory + when_due > 4
    world.ledger.close()


def test_who_was_remembered_otherwise_is_not_taken_on_trust(home_with: Callable[..., Home]) -> None:
    home = home_with()
    home.build()
    before = home.files()
    with closing(sqlite3.connect(home.folder / "ledger.db")) as connection, connection:
        connection.execute("UPDATE placements SET digest = 'wrong' WHERE path > '' AND user_id = ?", [trained(home)])
    with pytest.raises(NotAsRemembered):
        home.build()
    home.build()
    assert home.files() == before


# Only those are read who are touched


class CountingReading:
    def __init__(self, transaction: ReadTransaction, asked: list[Collection[str] | None]) -> None:
        self._transaction, self._asked = transaction, asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    def view(self, users: Collection[str] | None = None) -> LedgerView:
        self._asked.append(users)
        return self._transaction.view(users)


class CountingLedger(Ledger):
    """Notes whose interactions are asked for; None is everybody."""

    def __init__(self, url: str, secret: bytes) -> None:
        super().__init__(url, secret)
        self.asked: list[Collection[str] | None] = []

    @contextmanager
    def read_transaction(self) -> Iterator[ReadTransaction]:
        with super().read_transaction() as transaction:
            yield cast(ReadTransaction, CountingReading(transaction, self.asked))

    def read(self) -> set[str]:
        """Whose interactions were read since this was last asked."""
        assert None not in self.asked
        read = {user for users in self.asked for user in users or ()}
        self.asked.clear()
        return read


def counted(home: Home) -> CountingLedger:
    assert isinstance(home.ledger, CountingLedger)
    return home.ledger


def trained(home: Home) -> str:
    """Somebody whom an adapter has seen together with others."""
    seen = home.table("exposures", "key, user_id, kind")
    keys = [key for key, _, kind in seen if kind == "adapter"]
    return next(str(user) for key, user, kind in seen if kind == "adapter" and keys.count(key) > 2)


def test_a_first_build_reads_everybody_and_a_second_one_nobody(home_with: Callable[..., Home]) -> None:
    home = home_with(CountingLedger)
    home.build()
    assert counted(home).read() == {row.user_id for row in ROWS}
    home.build()
    assert counted(home).read() == set()


def test_a_deletion_reads_those_alone_who_are_trained_again_and_those_who_validate(
    home_with: Callable[..., Home],
) -> None:
    home = home_with(CountingLedger)
    home.build()
    counted(home).read()
    person = trained(home)
    home.forget(person)
    built = home.build()
    assert len(built.trained) == 1
    again = {user for key, user in home.table("exposures", "key, user_id") if key in built.trained}
    validate = {user for user, path in home.table("placements", "user_id, path") if not path}
    assert counted(home).read() == again | validate
    assert len(again) < (len(USERS) - len(validate)) / 2


# Exposures, of which only what is new is recorded


class ForgettingLedger(Ledger):
    """Somebody asks to be forgotten when everything is planned and nothing is recorded yet."""

    person: str | None = None

    def record_lineage(self, *given: Any) -> None:
        if self.person is not None:
            self.forget(self.person, None, None)
            type(self).person = None
        super().record_lineage(*given)


def test_who_is_forgotten_while_a_build_plans_is_masked_in_what_it_makes(home_with: Callable[..., Home]) -> None:
    home = home_with(ForgettingLedger)
    ForgettingLedger.person = USERS[2]
    assert USERS[2] not in VALIDATING
    built = home.build()
    masked = home.ledger.mask().adapters
    assert len(masked) == 1
    assert masked < set(built.shards)
    assert USERS[2] not in {user for (user,) in home.table("exposures", "user_id")}
    assert USERS[2] not in {user for (user,) in home.table("placements", "user_id")}


def test_who_comes_back_before_the_next_build_is_recorded_again(home_with: Callable[..., Home]) -> None:
    home = home_with()
    home.build()
    person, before = trained(home), sorted(home.table("exposures", "kind, key, user_id, samples"))
    home.forget(person)
    home.take_back([row for row in ROWS if row.user_id == person])
    home.build()
    assert sorted(home.table("exposures", "kind, key, user_id, samples")) == before


def test_what_is_known_already_is_not_offered_again(home_with: Callable[..., Home]) -> None:
    offered: list[set[str]] = []

    class NotingLedger(Ledger):
        def record_lineage(self, *given: Any) -> None:
            offered.append(set(given[1]) | set(given[2]))
            super().record_lineage(*given)

    home = home_with(NotingLedger)
    first = home.build()
    assert set().union(*offered) == set(first.shards) | first.rows
    offered.clear()
    home.build()
    assert offered == []
    home.forget(trained(home))
    assert offered == []
    again = home.build()
    assert offered == [set(again.trained)]

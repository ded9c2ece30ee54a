"""A full build gives way to whatever is owed, and comes to the same generation as if nobody had come in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.building.training.training import train_adapter
from service.building.training.validation import validate_users
from service.data.samples import is_validation_user
from service.errors import LetheError
from service.ledger import Event
from service.llm.spec import ModelSpec
from service.records import CatalogEntry, Interaction
from tests.exactness.homes import NOUN, SMALLEST_MODEL, Home, RememberingPublicTexts
from tests.exactness.test_horizon import CONFIG, ITEMS, ROWS, USERS

TRAINING, VALIDATING = (
    [user for user in USERS if is_validation_user(user, CONFIG.validation_percent, CONFIG.seed) is validates]
    for validates in (False, True)
)
NEWCOMER = "newcomer"
ARRIVED = [
    Interaction(user, ITEMS[(number + step) % len(ITEMS)].item_id, step != 1, 20_000 + step)
    for number, user in enumerate([*USERS, NEWCOMER])
    for step in range(2)
]
LATE = [Interaction(TRAINING[1], item.item_id, True, 30_000) for item in ITEMS]


class Interrupted(RememberingPublicTexts):
    """Something happens when the results of tasks come: (function, how many of them have come) -> what."""

    def __init__(self) -> None:
        super().__init__()
        self.come: dict[Any, int] = {train_adapter: 0, validate_users: 0}
        self.then: dict[tuple[Any, int], Callable[[], object]] = {}

    def run(
        self,
        function: Callable[[Any, Any], Any],
        tasks: Sequence[Any],
        on_steps: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, Any]]:
        for result in super().run(function, tasks, on_steps):
            if function in self.come:
                self.come[function] += 1
                self.then.pop((function, self.come[function]), lambda: None)()
            yield result

    def after(self, function: Callable[[Any, Any], Any], count: int, happens: Callable[[], object]) -> None:
        """Let something happen when so many further results have come."""
        self.then[function, self.come[function] + count] = happens


@pytest.fixture
def homes(tiny_models: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[[Interrupted], Home]]:
    opened: list[Home] = []

    def made(process_pool: Interrupted) -> Home:
        model = ModelSpec(str(tiny_models("llama", **SMALLEST_MODEL)))
        opened.append(Home(tmp_path / f"home-{len(opened)}", model, CONFIG, process_pool))
        return opened[-1]

    yield made
    for home in opened:
        home.close()


def before_a_full_build(home: Home, without: str = "") -> Home:
    """Everybody counts, and of everybody something has arrived."""
    home.ledger.import_data(ITEMS, [row for row in ROWS if row.user_id != without], NOUN)
    home.build()
    home.ledger.take_events([Event(row) for row in ARRIVED if row.user_id != without])
    return home


@pytest.mark.parametrize(
    ("stage", "count", "subject"),
    [
        (train_adapter, 4, TRAINING[0]),
        *(
            pytest.param(stage, count, subject, marks=pytest.mark.thorough)
            for stage, count in ((train_adapter, 1), (train_adapter, 4), (validate_users, 1))
            for subject in (TRAINING[0], VALIDATING[0], NEWCOMER)
        ),
    ],
)
def test_a_deletion_is_completed_in_the_middle_of_a_full_build_which_goes_on_to_the_same_generation(
    homes: Callable[[Interrupted], Home], stage: Callable[[Any, Any], Any], count: int, subject: str
) -> None:
    pool = Interrupted()
    seen: list[str] = []
    home = before_a_full_build(homes(pool))

    def somebody_asks() -> None:
        request = home.forget(subject)
        home.ledger.take_events([Event(row) for row in LATE])
        pool.after(train_adapter, 2, lambda: seen.append(home.ledger.request(request.request_id).state))

    pool.after(stage, count, somebody_asks)
    home.build()
    # The first further training is at most the deletion's own; by the second it is completed.
    assert seen in ([], ["completed"])
    assert bool(seen) or stage is not train_adapter
    assert home.ledger.pending() == []
    assert not home.ledger.is_full_build_under_way()
    assert home.ledger.beyond_horizon() == len(LATE)
    clean = before_a_full_build(homes(Interrupted()), without=subject)
    clean.build()
    assert (home.ledger.generation(), home.files()) == (clean.ledger.generation(), clean.files())


@pytest.mark.thorough
def test_nothing_is_trained_twice_but_what_had_seen_the_person(homes: Callable[[Interrupted], Home]) -> None:
    pool, undisturbed = Interrupted(), Interrupted()
    home, other = before_a_full_build(homes(pool)), before_a_full_build(homes(undisturbed))
    of_both = pool.come[train_adapter]
    assert undisturbed.come[train_adapter] == of_both
    pool.after(train_adapter, 3, lambda: home.forget(TRAINING[0]))
    built, plain = home.build(), other.build()
    needed = undisturbed.come[train_adapter] - of_both
    assert len(plain.trained) == needed > 4
    # One at the old horizon, and one anew if that of the person's new place had been made by then.
    assert needed <= pool.come[train_adapter] - of_both - 1 <= needed + 1
    assert set(built.trained) <= set(built.shards)


@pytest.mark.thorough
def test_what_was_made_by_a_full_build_that_died_is_not_made_again(homes: Callable[[Interrupted], Home]) -> None:
    pool = Interrupted()
    home = before_a_full_build(homes(pool))
    before = home.ledger.generation()

    def it_dies() -> None:
        raise LetheError("killed")

    pool.after(train_adapter, 4, it_dies)
    with pytest.raises(LetheError, match="killed"):
        home.build()
    assert home.ledger.generation() == before
    made = set(home.store.adapters.digests())
    home.forget(TRAINING[0])
    assert home.reconciler.reconcile_once()  # first what is owed, and what was made ahead stays
    assert home.ledger.pending() == []
    assert home.ledger.is_full_build_under_way()
    assert len(made & set(home.store.adapters.digests())) >= len(made) - 2
    assert home.reconcile_once()  # then the full build, without anybody asking
    assert not home.ledger.is_full_build_under_way()
    assert home.ledger.beyond_horizon() == 0
    clean = before_a_full_build(homes(Interrupted()), without=TRAINING[0])
    clean.build()
    assert (home.ledger.generation(), home.files()) == (clean.ledger.generation(), clean.files())


@pytest.mark.thorough
def test_what_had_been_made_of_somebody_ahead_is_erased_before_their_receipt(
    homes: Callable[[Interrupted], Home],
) -> None:
    pool = Interrupted()
    home = before_a_full_build(homes(pool))
    found: list[bool] = []

    def everybody_is_looked_for() -> None:
        [receipted] = home.ledger.requests_after(None, "completed", 9)
        found.append(bool(set(home.store.adapters.digests()) & set(receipted.affected_shards)))

    def somebody_asks() -> None:
        home.forget(TRAINING[0])
        pool.after(train_adapter, 2, everybody_is_looked_for)

    pool.after(train_adapter, 6, somebody_asks)
    home.build()
    assert found == [False]


@pytest.mark.thorough
def test_a_new_item_is_served_in_the_middle_of_a_full_build(homes: Callable[[Interrupted], Home]) -> None:
    pool = Interrupted()
    served: list[bool] = []
    home = before_a_full_build(homes(pool))

    def names_it() -> None:
        served.append('"item-9a"' in home.store.generation(home.ledger.generation() or "").read("items.json").decode())

    def it_comes() -> None:
        home.ledger.put_items([CatalogEntry(replace(ITEMS[0], item_id="item-9a", title="Brought (2001)"))])
        pool.after(train_adapter, 1, names_it)

    pool.after(train_adapter, 2, it_comes)
    home.build()
    assert served == [True]

"""Each way in which a person could leave a trace in somebody else's part is closed: one test for each such channel.

`test_mutants.py` opens the channels one by one, and each time the test named after it here must fail.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import sqlalchemy as sa

from adapters_store import Store
from service.arrays import load_array
from service.building.builder import Builder
from service.building.dry_run import DryRunLedger
from service.building.memories import memory_assignment
from service.building.planning.corpus import corpus_of
from service.building.planning.partition import anchor_pool
from service.data.samples import is_validation_user
from service.ledger import Ledger, ReadTransaction
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.records import BuildConfig, Interaction, Item, LedgerView, RatedItem
from service.routing.weights import mean_errors, softmax_weights
from service.scoring.recommender import Recommender
from service.scoring.requests import EncodedRequest, Query, Scored, ScoreRequest
from service.scoring.scorer import Scorer
from service.scoring.snapshot import Snapshots

from .homes import (
    ENVIRONMENT,
    NOUN,
    SECRET,
    Home,
    LastFirst,
    RememberingPublicTexts,
    copied,
    items_named,
    likings,
    shuffled,
)

CONFIG = BuildConfig(
    max_shard_size=10,
    tree_depth=2,
    samples_per_user=4,
    history_length=3,
    validation_percent=30,
    lora_rank=1,
    lora_alpha=2,
    epochs=3,
    learning_rate=0.02,
    batch_size=3,
)
ITEMS = items_named(8)
USERS = [f"person-{number}" for number in range(12)]
ROWS = likings(USERS, ITEMS, 4, 7)
LATER = 10_000  # than any of these rows, so that a changed row of that time counts
VALIDATING = [user for user in USERS if is_validation_user(user, CONFIG.validation_percent, CONFIG.seed)]
TRAINING = [user for user in USERS if user not in VALIDATING]

PUBLIC_TEXTS = RememberingPublicTexts()  # they are the same in almost every test

HomeOf = Callable[..., Home]


def without(*users: str) -> list[Interaction]:
    return [row for row in ROWS if row.user_id not in users]


def only(*users: str) -> list[Interaction]:
    return [row for row in ROWS if row.user_id in users]


@pytest.fixture(scope="module")
def origin(scratch: Path, smallest_model: ModelSpec) -> Path:
    """The folder of a home of everybody, built."""
    home = Home(scratch / "origin", smallest_model, CONFIG, PUBLIC_TEXTS)
    home.ledger.import_data(ITEMS, ROWS, NOUN)
    home.build()
    home.close()
    return home.folder


@pytest.fixture
def opened() -> Iterator[list[Home]]:
    homes: list[Home] = []
    yield homes
    for home in homes:
        home.close()


@pytest.fixture
def everybody(origin: Path, scratch: Path, smallest_model: ModelSpec, opened: list[Home], request: Any) -> Home:
    """A copy of the home of everybody."""
    opened.append(Home(copied(origin, scratch / f"copy-{request.node.name}"), smallest_model, CONFIG, PUBLIC_TEXTS))
    return opened[-1]


@pytest.fixture
def home_of(scratch: Path, smallest_model: ModelSpec, opened: list[Home], request: Any) -> HomeOf:
    """A function: rows, and what is to differ -> a home that never held any others, built."""

    def built(rows: list[Interaction], items: list[Item] = ITEMS, config: BuildConfig = CONFIG, **parts: Any) -> Home:
        folder = scratch / f"{len(opened)}-{request.node.name}"
        opened.append(Home(folder, smallest_model, config, **{"process_pool": PUBLIC_TEXTS, **parts}))
        opened[-1].ledger.import_data(items, rows, NOUN)
        opened[-1].build()
        return opened[-1]

    return built


def validation_rows(home: Home) -> dict[str, tuple[bytes, bytes]]:
    """Key -> the bytes of its embedding and of its errors, sorted by adapter."""
    stored = home.store.generation(home.ledger.generation() or "")
    errors, embeddings = load_array(stored.read("errors.npy")), load_array(stored.read("embeddings.npy"))
    columns = np.argsort([adapter["digest"] for adapter in stored.manifest["adapters"]])
    keys = json.loads(stored.read("rows.json"))
    return {
        key: (embedding.tobytes(), own[columns].tobytes())
        for key, embedding, own in zip(keys, embeddings, errors, strict=True)
    }


def catalog_files(home: Home) -> dict[str, bytes]:
    stored = home.store.generation(home.ledger.generation() or "")
    return {name: stored.read(name) for name in ("items.json", "item_embeddings.npy", "item_facts.npy")}


def test_these_people_fill_several_shards_and_validate() -> None:
    """Or the tests below would say nothing."""
    assert len(VALIDATING) >= 3
    assert len(TRAINING) >= 6


# The order in which things come


@contextmanager
def reversed_selects() -> Iterator[None]:
    """SQLite gives rows backwards wherever no order is asked for."""

    def turn(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA reverse_unordered_selects=ON")

    sa.event.listen(sa.Engine, "connect", turn)
    yield
    sa.event.remove(sa.Engine, "connect", turn)


def test_the_order_of_rows_from_the_database(everybody: Home, home_of: HomeOf) -> None:
    with reversed_selects():
        other = home_of(shuffled(ROWS), shuffled(ITEMS))
    assert other.files() == everybody.files()


class ShuffledReading:
    """Lists users and their interactions in another order."""

    def __init__(self, transaction: ReadTransaction) -> None:
        self._transaction = transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    def view(self, users: Collection[str] | None = None) -> LedgerView:
        view = self._transaction.view(users)
        order = shuffled(view.interactions, 5)
        return replace(view, interactions={user: tuple(shuffled(view.interactions[user], 6)) for user in order})


class ShuffledLedger(Ledger):
    @contextmanager
    def read_transaction(self) -> Iterator[ReadTransaction]:
        with super().read_transaction() as transaction:
            yield cast(ReadTransaction, ShuffledReading(transaction))


class ForgetfulShuffledLedger(ShuffledLedger):
    remembers = False


@pytest.mark.parametrize("ledger", [ShuffledLedger, ForgetfulShuffledLedger])
def test_the_order_in_which_a_view_lists_people(everybody: Home, home_of: HomeOf, ledger: type[Ledger]) -> None:
    assert home_of(ROWS, ledger=ledger).files() == everybody.files()


@pytest.mark.thorough
def test_which_process_ends_first(everybody: Home, home_of: HomeOf) -> None:
    assert home_of(ROWS, process_pool=LastFirst()).files() == everybody.files()


# Who else there is


@pytest.mark.parametrize("user", [TRAINING[0], TRAINING[3], VALIDATING[0]])
def test_split_and_samples_of_a_person_do_not_depend_on_who_else_there_is(user: str) -> None:
    view = LedgerView(0, NOUN, tuple(ITEMS), {name: tuple(only(name)) for name in USERS})
    rest = {name: rows for name, rows in view.interactions.items() if name != user}
    now, then = (corpus_of(seen, CONFIG) for seen in (replace(view, interactions=rest), view))
    for part, before in ((now.training, then.training), (now.validation, then.validation)):
        assert part == {name: samples for name, samples in before.items() if name != user}


def test_a_persons_path_does_not_depend_on_who_else_there_is(everybody: Home, home_of: HomeOf) -> None:
    together = _paths(everybody)
    assert len(set(together.values())) > 2
    for user in TRAINING[:3]:
        assert _paths(home_of(only(user))) == {user: together[user]}


def test_an_adapter_does_not_depend_on_other_shards(everybody: Home, home_of: HomeOf) -> None:
    seen = everybody.table("exposures", "key, user_id")
    adapters = everybody.adapters()
    assert len(adapters) >= 3
    for digest, files in adapters.items():
        alone = home_of(only(*(user for key, user in seen if key == digest)))
        assert alone.adapters() == {digest: files}


def test_an_adapter_does_not_depend_on_what_was_trained_before_it(everybody: Home) -> None:
    adapters = everybody.adapters()
    for digest in sorted(adapters, reverse=True):
        everybody.store.adapters.remove(digest)
        assert everybody.build().trained == (digest,)
        assert everybody.adapters()[digest] == adapters[digest]


def test_an_adapter_does_not_depend_on_those_who_validate(everybody: Home, home_of: HomeOf) -> None:
    assert home_of(only(*TRAINING)).adapters() == everybody.adapters()


@pytest.mark.thorough
def test_a_validation_row_does_not_depend_on_others_who_validate(everybody: Home, home_of: HomeOf) -> None:
    together = validation_rows(everybody)
    for user in VALIDATING[:3]:
        alone = validation_rows(home_of(only(user, *TRAINING)))
        assert alone
        assert alone == {key: together[key] for key in alone}


def test_a_configuration_holds_whatever_the_data(everybody: Home, home_of: HomeOf) -> None:
    for home in (everybody, home_of(only(*USERS[:3])), home_of([])):
        stated = home.manifest()["config"]
        assert stated == CONFIG.stated()


# What others liked


def test_the_catalog_does_not_know_what_anybody_liked(everybody: Home, home_of: HomeOf) -> None:
    assert catalog_files(home_of([])) == catalog_files(everybody)


class Closed:
    """A queue that nobody comes to."""

    def admit(self, timeout: float, caller: str) -> None: ...

    async def submit(self, request: EncodedRequest, timeout: float, caller: str) -> Scored:
        raise NotImplementedError


def retrieved(home: Home, frozen: FrozenModel, query: Query) -> tuple[list[str], bytes]:
    prepared = Recommender(home.ledger, Snapshots(home.store, frozen), frozen, Closed(), 5.0).prepare(query)
    found = prepared.reasons
    assert found.solved.any() == (home.ledger.mask().empty and len(prepared.taste.likes) > 0)
    return [item.item_id for item in prepared.request.candidates], (
        found.together + found.followed + found.popular
    ).tobytes()


QUERIES = (
    Query(user_id=USERS[0], opinions=(), candidates=None, top_k=3),
    Query(user_id=None, opinions=((ITEMS[2].item_id, True), (ITEMS[5].item_id, False)), candidates=None, top_k=3),
    Query(user_id=None, opinions=(), candidates=None, top_k=3),
)


def test_retrieval_counts_nobody_who_is_gone(everybody: Home, home_of: HomeOf, smallest_model: ModelSpec) -> None:
    frozen = FrozenModel.load(smallest_model)
    before = [retrieved(everybody, frozen, query) for query in QUERIES]
    everybody.forget(USERS[1])
    # At once, before anything is counted again: as if the whole memory had never been there.
    memory = everybody.ledger.mask().memories
    [gone] = [set(users) for users in memories_of(everybody).values() if USERS[1] in users]
    assert len(memory) == 1
    masked = [retrieved(everybody, frozen, query) for query in QUERIES]
    others = home_of([row for row in ROWS if row.user_id not in gone])
    assert [counts for _, counts in masked[1:]] == [retrieved(others, frozen, query)[1] for query in QUERIES[1:]]
    assert masked[1:] != before[1:]
    everybody.reconcile_once()
    clean = home_of(without(USERS[1]))
    assert [retrieved(everybody, frozen, query) for query in QUERIES] == [
        retrieved(clean, frozen, query) for query in QUERIES
    ]


def test_a_memory_does_not_depend_on_other_memories(everybody: Home, home_of: HomeOf) -> None:
    for user in USERS[1:4]:
        left = home_of(without(user))
        before, after = memory_files(everybody), memory_files(left)
        assert len(before.items() - after.items()) == 1
        assert len(after.items() - before.items()) <= 1


def memory_files(home: Home) -> dict[str, tuple[bytes, ...]]:
    """Digest -> the bytes of the memory's files."""
    folders = {digest: home.store.memories.path(digest) for digest in home.store.memories.digests()}
    return {digest: tuple(file.read_bytes() for file in sorted(path.iterdir())) for digest, path in folders.items()}


def memories_of(home: Home) -> dict[str, list[str]]:
    """Digest -> whom it counts, as the ledger recorded before the deletion; by their rows, if they are gone by now."""
    found: dict[str, list[str]] = {}
    for user in USERS:
        rows = only(user)
        name = memory_assignment(user, rows, CONFIG).path
        for memory in home.manifest()["memories"]:
            if name.startswith(memory["shard"]):
                found.setdefault(memory["digest"], []).append(user)
    return found


class NoStopwatch:
    def observe_forward(self, seconds: float) -> None: ...

    def observe_neighbors(self, seconds: float) -> None: ...


def test_weights_follow_from_the_published_errors_and_the_configured_tau(
    everybody: Home, smallest_model: ModelSpec
) -> None:
    frozen = FrozenModel.load(smallest_model)
    snapshots = Snapshots(everybody.store, frozen)
    history = (RatedItem(ITEMS[0], True), RatedItem(ITEMS[5], False))
    scorer = Scorer(everybody.ledger, snapshots, frozen, NoStopwatch())
    [scored] = scorer.score(scorer.encoded([ScoreRequest(history, (ITEMS[1],))]))
    snapshot = snapshots.of(everybody.ledger.generation())
    stands = frozen.read_padded_prefixes([frozen.tokenizer.context(history, NOUN)]).embeddings.numpy()
    error_k = mean_errors(snapshot.errors, snapshot.neighbors.nearest(stands, CONFIG.top_n))
    [expected] = softmax_weights(error_k, CONFIG.tau, np.ones(error_k.shape[1], dtype=np.bool_))
    assert list(scored.weights.values()) == expected.tolist()


# What was known before


def test_a_title_that_changes_under_its_id(everybody: Home, home_of: HomeOf) -> None:
    items = [replace(ITEMS[0], title="Another film (2001)"), *ITEMS[1:]]
    everybody.ledger.import_data(items, [], NOUN)
    before = catalog_files(everybody)
    everybody.build()
    assert everybody.files() == home_of(ROWS, items).files()
    assert catalog_files(everybody) != before


@pytest.mark.thorough
def test_a_title_that_changes_and_moves_no_plane(home_of: HomeOf) -> None:
    items = [replace(ITEMS[0], title="Another film (2001)"), *ITEMS[1:]]
    config = replace(CONFIG, partition="random")
    home = home_of(ROWS, config=config)
    before = set(home.adapters())
    home.ledger.import_data(items, [], NOUN)
    home.build()
    assert home.files() == home_of(ROWS, items, config).files()
    assert set(home.adapters()) != before


def test_genres_that_change_under_an_id(everybody: Home, home_of: HomeOf) -> None:
    items = [replace(ITEMS[0], genres=("Comedy",)), *ITEMS[1:]]
    adapters = everybody.adapters()
    everybody.ledger.import_data(items, [], NOUN)
    everybody.build()
    assert everybody.files() == home_of(ROWS, items).files()
    assert everybody.adapters() == adapters  # prompts name titles only


@pytest.mark.parametrize("user", [VALIDATING[0], VALIDATING[-1]])
def test_validation_rows_of_somebody_whose_opinions_change(everybody: Home, home_of: HomeOf, user: str) -> None:
    changed = [
        replace(row, liked=not row.liked, timestamp=LATER + row.timestamp) if row.user_id == user else row
        for row in ROWS
    ]
    before = validation_rows(everybody)
    everybody.ledger.import_data([], changed, None)
    everybody.build()
    assert everybody.files() == home_of(changed).files()
    assert validation_rows(everybody) != before


@pytest.mark.thorough
def test_what_was_read_of_people_whose_opinions_change(everybody: Home, home_of: HomeOf) -> None:
    for number, changes in enumerate(("dislikes", "likes")):  # the second build finds what the first one read
        later = LATER * (number + 1)
        rows = [replace(row, liked=changes == "likes", timestamp=later + row.timestamp) for row in ROWS]
        everybody.ledger.import_data([], rows, None)
        everybody.build()
        assert everybody.files() == home_of(rows).files()


def test_the_path_of_somebody_whose_opinions_change(everybody: Home, home_of: HomeOf) -> None:
    moved = [replace(row, liked=not row.liked, timestamp=LATER + row.timestamp) for row in ROWS]
    before = _paths(everybody)
    everybody.ledger.import_data([], moved, None)
    everybody.build()
    clean = home_of(moved)
    assert _paths(everybody) != before
    assert everybody.table("placements", "unit_key, digest, path") == clean.table(
        "placements", "unit_key, digest, path"
    )
    assert everybody.files() == clean.files()


@pytest.mark.thorough
def test_an_order_of_time_that_changes(everybody: Home, home_of: HomeOf) -> None:
    turned = [replace(row, timestamp=LATER - row.timestamp) for row in ROWS]
    before = everybody.files()
    everybody.ledger.import_data([], turned, None)
    everybody.build()
    assert everybody.files() == home_of(turned).files()
    assert everybody.files() != before


def test_times_count_by_their_order_alone(everybody: Home, home_of: HomeOf) -> None:
    """Where a file has no times its line numbers stand for them, and these tell how much stood between."""
    later = [replace(row, timestamp=2 * row.timestamp + 10**6) for row in ROWS]
    assert home_of(later).files() == everybody.files()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "between",
    [
        replace(CONFIG, unit="sample", activation="prompt"),
        replace(CONFIG, validation_percent=60, lora_alpha=8),
        replace(CONFIG, partition="random", history_length=1),
    ],
    ids=["unit", "split", "partition"],
)
def test_an_earlier_generation_of_another_configuration(everybody: Home, between: BuildConfig) -> None:
    before = everybody.files()
    everybody.reconciler.rebuild(between)
    assert everybody.files() != before
    everybody.build()
    assert everybody.files() == before


@pytest.mark.thorough
def test_an_earlier_generation_in_another_precision(
    everybody: Home, scratch: Path, smallest_model: ModelSpec, opened: list[Home]
) -> None:
    before = everybody.files()
    half = Home(everybody.folder, replace(smallest_model, dtype="bfloat16"), CONFIG, PUBLIC_TEXTS)
    opened.append(half)
    half.build()
    assert half.files() != before
    everybody.build()
    assert everybody.files() == before


@pytest.mark.thorough
def test_how_often_somebody_was_forgotten_and_when(everybody: Home, home_of: HomeOf) -> None:
    before = everybody.files()
    for user in (TRAINING[1], VALIDATING[1]):
        everybody.forget(user)
        everybody.reconcile_once()
        assert everybody.files() != before
        everybody.take_back(only(user))
        everybody.build()
        assert everybody.files() == before
    everybody.forget(TRAINING[1])
    everybody.forget(VALIDATING[1])
    everybody.reconcile_once()
    assert everybody.files() == home_of(without(TRAINING[1], VALIDATING[1])).files()


def test_nothing_in_a_generation_tells_a_time_a_fence_or_a_process(everybody: Home) -> None:
    stored = {name: content for name, content in everybody.files().items() if name.endswith(".json")}
    for name, content in stored.items():
        assert not re.search(rb"\b1[6-9]\d{8}\b", content), name  # seconds since the epoch, of these decades
        assert not re.search(rb'"(time|fence|pid|host|user|created_at)":', content), name


@pytest.mark.thorough
def test_a_dry_run_does_not_trust_remembered_paths(
    everybody: Home, scratch: Path, smallest_model: ModelSpec, request: Any
) -> None:
    path = {unit: ("0" if found[0] == "1" else "1") + found[1:] for unit, found in _paths(everybody).items() if found}
    with closing(sqlite3.connect(everybody.folder / "ledger.db")) as connection, connection:
        connection.executemany(
            "UPDATE placements SET path = ? WHERE unit_key = ? AND path < '2'", [(p, unit) for unit, p in path.items()]
        )
    everybody.build()
    store = Store(scratch / f"dry-run-{request.node.name}")
    with DryRunLedger(f"sqlite:///{everybody.folder}/ledger.db", SECRET) as ledger:
        validation_run = Builder(ledger, store, smallest_model, PUBLIC_TEXTS, SECRET, ENVIRONMENT).build(CONFIG)
    assert validation_run.generation != everybody.ledger.generation()


@pytest.mark.thorough
def test_what_another_environment_computed_is_not_taken_for_ones_own(
    everybody: Home, smallest_model: ModelSpec
) -> None:
    before, rows = set(everybody.adapters()), set(validation_rows(everybody))
    with Ledger(f"sqlite:///{everybody.folder}/ledger.db", SECRET) as ledger:
        for torch_version, again in (("0.1", False), ("0.2", False), ("0.2", True)):
            made_with = {"torch": torch_version}
            built = Builder(ledger, everybody.store, smallest_model, PUBLIC_TEXTS, SECRET, made_with).build(CONFIG)
            assert bool(built.trained) is not again
            assert again or not (before & built.shards.keys() or rows & built.rows)
            before, rows = set(built.shards), set(built.rows)


def test_who_said_the_same_as_somebody_in_another_shard_has_an_adapter_of_their_own(home_of: HomeOf) -> None:
    twins = [replace(row, user_id=user) for row in only(TRAINING[0]) for user in TRAINING]
    home = home_of(twins, config=replace(CONFIG, max_shard_size=1, samples_per_user=1))
    adapters = set(home.adapters())
    assert len(adapters) == len(TRAINING)
    for user in TRAINING:
        request = home.forget(user)
        [digest] = request.affected_shards
        assert request.masked_samples == 1
        adapters.remove(digest)


def test_an_item_that_only_the_forgotten_person_had(everybody: Home, home_of: HomeOf) -> None:
    """No catalog states it: it was made for their row, and goes with it, as it might be their own words."""
    forgotten, stays = TRAINING[0], TRAINING[1]
    rows = [Interaction(user, "a shared one", True, LATER) for user in (forgotten, stays)]
    alone = Interaction(forgotten, "their own words", True, LATER)
    pool = anchor_pool(everybody.ledger.items(), CONFIG.seed)
    everybody.ledger.import_data([], [*rows, alone], None, create_items=True)
    assert anchor_pool(everybody.ledger.items(), CONFIG.seed) == pool
    everybody.build()
    assert b"their own words" in catalog_files(everybody)["items.json"]
    everybody.forget(forgotten)
    left = everybody.ledger.search("their own words")
    assert (left.found, left.item_ids) == ({}, 0)
    everybody.build()
    shared = Item("a shared one", "a shared one", created=True)
    kept = [*without(forgotten), rows[1]]
    clean = home_of(kept, [*ITEMS, shared])
    assert everybody.files() == clean.files()
    assert b"their own words" not in b"".join(everybody.files().values())


def _paths(home: Home) -> dict[str, str]:
    """Of those who train or validate: unit key -> path."""
    return {unit: path for unit, path in home.table("placements", "unit_key, path") if path < "2"}


# Negatives

WITH_NEGATIVES = replace(CONFIG, negatives=2, max_shard_size=16, epochs=1)
MANY_ITEMS = items_named(20)


@pytest.mark.thorough
def test_negatives_of_a_person_do_not_depend_on_who_else_there_is(home_of: HomeOf) -> None:
    home = home_of(ROWS, MANY_ITEMS, WITH_NEGATIVES)
    before, clean = home.adapters(), home_of(without(TRAINING[0]), MANY_ITEMS, WITH_NEGATIVES)
    home.forget(TRAINING[0])
    home.reconcile_once()
    assert home.files() == clean.files()
    assert len(before) >= 3
    assert len(before.keys() - home.adapters().keys()) == 1  # of nobody else a sample has changed


def test_negatives_of_somebody_of_whom_one_interaction_is_forgotten(home_of: HomeOf) -> None:
    home = home_of(ROWS, MANY_ITEMS, WITH_NEGATIVES)
    gone = only(TRAINING[0])[0]
    home.forget(gone.user_id, [gone.item_id])
    home.reconcile_once()
    assert home.files() == home_of([row for row in ROWS if row != gone], MANY_ITEMS, WITH_NEGATIVES).files()


@pytest.mark.thorough
def test_an_item_that_only_the_forgotten_person_had_is_nobodys_negative(home_of: HomeOf) -> None:
    named = [Item(f"of-one-{n}", f"of one {n}", created=True) for n in range(20)]
    rows = [Interaction(TRAINING[0], item.item_id, True, LATER) for item in named]
    home = home_of([*ROWS, *rows], [*MANY_ITEMS, *named], WITH_NEGATIVES)
    before = home.adapters()
    home.forget(TRAINING[0])
    home.reconcile_once()
    assert len(before.keys() - home.adapters().keys()) == 1
    assert home.files() == home_of(without(TRAINING[0]), MANY_ITEMS, WITH_NEGATIVES).files()


@pytest.mark.thorough
def test_a_title_that_changes_of_an_item_that_nobody_has_met(home_of: HomeOf) -> None:
    changed = [*MANY_ITEMS[:-1], replace(MANY_ITEMS[-1], title="Another title")]
    home = home_of(ROWS, MANY_ITEMS, WITH_NEGATIVES)
    home.ledger.import_data(changed, [], NOUN)
    home.build()
    assert home.files() == home_of(ROWS, changed, WITH_NEGATIVES).files()


# Adapters on the tokens of items


@pytest.mark.thorough
def test_what_an_adapter_knows_of_items_does_not_depend_on_who_else_there_is(home_of: HomeOf) -> None:
    config = replace(CONFIG, lora_targets=("q_proj", "embed_tokens"), epochs=1)
    home = home_of(ROWS, config=config)
    home.forget(TRAINING[0])
    home.reconcile_once()
    assert home.files() == home_of(without(TRAINING[0]), config=config).files()


# Keys of an encrypted store


@pytest.mark.thorough
def test_the_key_of_what_had_seen_somebody_goes_with_it(home_of: HomeOf) -> None:
    home = home_of(ROWS, wrapping_key=bytes(range(32)))
    plain, sealed = home.opened_files(), home.files()
    assert plain == home_of(ROWS).files()
    files = {path for path in plain if path.count("/") == 2}
    assert not any(plain[path] in content for path in files for content in sealed.values())
    had = {directory for (directory,) in home.table("artifact_keys", "directory")}
    assert had == {"", *(path.rpartition("/")[0] for path in files)}
    home.forget(TRAINING[0])
    home.reconcile_once()
    assert home.opened_files() == home_of(without(TRAINING[0])).files()
    left = {directory for (directory,) in home.table("artifact_keys", "directory")}
    assert left == {"", *(path.rpartition("/")[0] for path in home.files() if path.count("/") == 2)}
    assert {directory.partition("/")[0] for directory in had - left} == {"adapters", "memory", "generations"}

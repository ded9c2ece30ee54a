from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters_store import Store
from service.building.builder import Builder, Built
from service.building.planning.corpus import corpus_of
from service.building.progress import Silent
from service.building.workers.prefill_cache import PrefillCache
from service.building.workers.process_pool import ProcessPool
from service.data.samples import is_validation_user
from service.ledger import Ledger
from service.llm.spec import ModelSpec
from service.records import BuildConfig, Interaction, Item

NOUN = "movie"
SECRET = b"the same in every home"
ENVIRONMENT = {"machine": "the same for every home"}
CONFIG = BuildConfig(
    max_shard_size=24,
    tree_depth=2,
    samples_per_user=3,
    history_length=3,
    validation_percent=20,
    lora_rank=2,
    lora_alpha=4,
    epochs=1,
    learning_rate=0.02,
    batch_size=8,
)
ITEMS = [Item(f"item-{number}", f"Film {number} (19{50 + number})", None, ("Drama", "War")) for number in range(20)]
USERS = [f"person-{number}" for number in range(30)]


def _interactions() -> list[Interaction]:
    chance = random.Random(7)
    return [
        Interaction(user, item.item_id, chance.random() < 0.5, chance.randrange(1000))
        for user in USERS
        for item in chance.sample(ITEMS, chance.randint(4, 8))
    ]


INTERACTIONS = _interactions()
TRAINING_USER, OTHER_TRAINING_USER = [user for user in USERS if not is_validation_user(user, 20, 0)][3:5]
VALIDATION_USER = next(user for user in USERS if is_validation_user(user, 20, 0))


class Home:
    """A ledger and a store in one folder."""

    def __init__(
        self,
        folder: Path,
        model: Path,
        interactions: Sequence[Interaction] | None = None,
        items: Sequence[Item] = ITEMS,
        processes: int = 2,
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db", SECRET)
        self.store = Store(folder / "store")
        process_pool = ProcessPool(
            processes, ("service.building.training.training", "service.building.training.validation")
        )
        self.prefill_cache = PrefillCache(2**23)
        self.builder = Builder(
            self.ledger,
            self.store,
            ModelSpec(str(model)),
            process_pool,
            SECRET,
            ENVIRONMENT,
            prefill_cache=self.prefill_cache,
        )
        if interactions is not None:
            self.ledger.import_data(items, interactions, NOUN)

    def build(self, config: BuildConfig = CONFIG) -> Built:
        """Build, publish, and erase what the new generation does not need."""
        built = self.builder.build(config)
        self.store.publish(built.generation)
        self.store.erase_except(self.adapters(built.generation), built.memories, [built.generation])
        assert self.ledger.publish(built.published, built.shards, built.rows, built.memories)
        return built

    def active(self) -> str:
        active = self.store.active()
        assert active is not None
        return active

    def manifest(self) -> dict[str, Any]:
        return self.store.generation(self.active()).manifest

    def adapters(self, generation: str) -> list[str]:
        return [adapter["digest"] for adapter in self.store.generation(generation).manifest["adapters"]]

    def files(self) -> dict[str, bytes]:
        """Every file of the store: relative path -> content."""
        root = self.store.root
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def times(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.store.root.glob("adapters/*/*")}


@pytest.fixture(scope="session")
def model(tiny_models: Callable[..., Path]) -> Path:
    return tiny_models("llama")


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Callable[..., Home]:
    """A function: configuration, folder -> a copy of the home that was built with it, which is made once."""
    built = {}

    def copy_to(folder: Path, config: BuildConfig = CONFIG) -> Home:
        if config not in built:
            original = Home(tmp_path_factory.mktemp("home"), model, INTERACTIONS)
            original.build(config)
            original.ledger.close()
            built[config] = original.folder
        shutil.copytree(built[config], folder)
        return Home(folder, model)

    return copy_to


@pytest.fixture
def home(homes: Callable[..., Home], tmp_path: Path) -> Home:
    return homes(tmp_path / "home")


@pytest.fixture
def clean_home(tmp_path: Path, model: Path) -> Callable[..., Home]:
    """A function: interactions -> a home that never knew any other."""
    return lambda interactions, **changed: Home(tmp_path / "clean", model, interactions, **changed)


def _without(user: str, item_id: str | None = None) -> list[Interaction]:
    return [row for row in INTERACTIONS if row.user_id != user or (item_id and row.item_id != item_id)]


# Building again


def test_a_second_build_trains_nothing_and_changes_nothing(home: Home) -> None:
    before, files, times = home.store.active(), home.files(), home.times()
    built = home.build()
    assert built.trained == ()
    assert built.generation == before
    assert home.files() == files
    assert home.times() == times


@pytest.mark.thorough
def test_the_number_of_processes_does_not_matter(home: Home, clean_home: Callable[..., Home]) -> None:
    other = clean_home(INTERACTIONS, processes=1)
    other.build()
    assert other.files() == home.files()


def test_a_person_with_a_single_interaction_has_no_sample_and_is_counted_all_the_same(
    home: Home, clean_home: Callable[..., Home]
) -> None:
    newcomer = Interaction("newcomer", ITEMS[0].item_id, True, 5)
    other = clean_home([*INTERACTIONS, newcomer])
    built = other.build()
    assert built.trained
    assert set(built.shards) == set(home.store.adapters.digests())
    counted = [sum(memory["interactions"] for memory in h.manifest()["memories"]) for h in (home, other)]
    assert counted[1] == counted[0] + 1


# Forgetting is a clean build without the person


# In processes of their own, as a worker builds; `tests/exactness` goes through whole stories of every kind in one process.
VARIANTS = {
    "tree-sample": replace(CONFIG, unit="sample"),
    "random-user-prompt": replace(CONFIG, partition="random", activation="prompt", level="D"),
}


# The other ways to cut people into units, and more than one deletion, are stories of the state machine's, too.
@pytest.mark.parametrize("name", [pytest.param("tree-sample", marks=pytest.mark.thorough), "random-user-prompt"])
def test_forgetting_a_user_leaves_the_bytes_of_a_clean_build_without_them(
    homes: Callable[..., Home], clean_home: Callable[..., Home], tmp_path: Path, name: str
) -> None:
    variant = VARIANTS[name]
    home, clean = homes(tmp_path / "home", variant), clean_home(_without(TRAINING_USER))
    before = home.files()
    home.ledger.forget(TRAINING_USER, None, None)
    home.build(variant)
    clean.build(variant)
    assert home.files() == clean.files()
    assert home.files() != before


@pytest.mark.thorough
def test_forgetting_single_items_leaves_the_bytes_of_a_clean_build_without_them(
    home: Home, clean_home: Callable[..., Home]
) -> None:
    item = next(row.item_id for row in INTERACTIONS if row.user_id == TRAINING_USER)
    clean = clean_home(_without(TRAINING_USER, item))
    home.ledger.forget(TRAINING_USER, [item], None)
    home.build()
    clean.build()
    assert home.files() == clean.files()


@pytest.mark.thorough
def test_deletion_after_deletion_leaves_the_bytes_of_a_clean_build(home: Home, clean_home: Callable[..., Home]) -> None:
    home.ledger.forget(TRAINING_USER, None, None)
    home.build()
    read = home.prefill_cache.people
    assert TRAINING_USER not in read
    mate = min(user for user in read if not is_validation_user(user, 20, 0))
    home.ledger.forget(mate, None, None)
    built = home.build()
    assert len(built.trained) == 1
    assert mate not in home.prefill_cache.people
    assert home.prefill_cache.people >= read - {mate}
    gone = {TRAINING_USER, mate}
    clean = clean_home([row for row in INTERACTIONS if row.user_id not in gone])
    clean.build()
    assert home.files() == clean.files()


def test_nothing_stays_of_somebody_who_is_forgotten_while_they_are_being_read(home: Home, model: Path) -> None:
    class Deletion(Silent):
        def phase(self, name: str, total: int) -> None:
            if name == "training shards":
                home.ledger.forget(OTHER_TRAINING_USER, None, None)

    home.ledger.forget(TRAINING_USER, None, None)
    builder = Builder(
        home.ledger,
        home.store,
        ModelSpec(str(model)),
        ProcessPool(2),
        SECRET,
        ENVIRONMENT,
        progress=Deletion(),
        prefill_cache=home.prefill_cache,
    )
    builder.build(replace(CONFIG, seed=1))  # everything is trained
    assert OTHER_TRAINING_USER in home.prefill_cache.people
    builder.wipe_forgotten()
    assert OTHER_TRAINING_USER not in home.prefill_cache.people
    assert home.prefill_cache.people


def test_only_one_adapter_is_new_and_the_others_are_not_touched(home: Home) -> None:
    before, times = set(home.store.adapters.digests()), home.times()
    home.ledger.forget(TRAINING_USER, None, None)
    built = home.build()
    kept = before & set(home.store.adapters.digests())
    assert len(built.trained) == 1
    assert set(home.store.adapters.digests()) == kept | set(built.trained)
    assert len(kept) >= 3
    now = home.times()
    assert all(now[path] == times[path] for path in times if path.parent.name in kept)


@pytest.mark.thorough
def test_forgetting_a_validation_user_changes_no_adapter(home: Home, clean_home: Callable[..., Home]) -> None:
    before, times = home.store.active(), home.times()
    mine = set(home.ledger.mask().rows)
    home.ledger.forget(VALIDATION_USER, None, None)
    masked = home.ledger.mask().rows - mine
    built = home.build()
    assert built.trained == ()
    assert built.generation != before
    assert home.times() == times
    assert masked
    assert not masked & built.rows
    clean = clean_home(_without(VALIDATION_USER))
    clean.build()
    assert home.files() == clean.files()


def test_a_deletion_masks_exactly_the_adapter_that_saw_the_user(home: Home) -> None:
    before = set(home.store.adapters.digests())
    home.ledger.forget(TRAINING_USER, None, None)
    mask = home.ledger.mask()
    home.build()
    assert mask.adapters == before - set(home.store.adapters.digests())
    assert len(mask.adapters) == 1
    assert mask.rows == frozenset()


@pytest.mark.thorough
def test_whoever_is_forgotten_while_a_build_runs_is_masked_in_what_it_makes(clean_home: Callable[..., Home]) -> None:
    home = clean_home(INTERACTIONS)
    view = home.ledger.view()
    home.ledger.forget(TRAINING_USER, None, None)
    built = home.builder.build_corpus(corpus_of(view, CONFIG), CONFIG, view.fence)
    masked = home.ledger.mask().adapters
    assert len(masked) == 1
    assert masked < set(built.shards)


# Damage is repaired


def test_a_damaged_adapter_is_made_again_to_the_same_bytes(home: Home) -> None:
    files = home.files()
    digest = home.store.adapters.digests()[0]
    torn = home.store.root / "adapters" / digest / "adapter_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1] + b"\xff")
    assert home.build().trained == (digest,)
    assert home.files() == files


def test_a_lost_adapter_is_made_again_to_the_same_bytes(home: Home) -> None:
    files = home.files()
    digest = home.store.adapters.digests()[0]
    home.store.adapters.remove(digest)
    assert home.build().trained == (digest,)
    assert home.files() == files


@pytest.mark.parametrize(
    "damage",
    ["torn file", *(pytest.param(damage, marks=pytest.mark.thorough) for damage in ("lost generation", "torn ACTIVE"))],
)
def test_a_damaged_generation_is_made_again_to_the_same_bytes(home: Home, damage: str) -> None:
    files, root = home.files(), home.store.root
    active = root / "generations" / home.active()
    if damage == "torn file":
        (active / "errors.npy").write_bytes(b"torn")
    elif damage == "lost generation":
        shutil.rmtree(active)
    else:
        (root / "ACTIVE").write_text("torn")
    home.build()
    assert home.files() == files


# Algorithm 1


@pytest.mark.thorough
def test_algorithm1_gives_a_newcomer_a_place_and_moves_nobody(homes: Callable[..., Home], tmp_path: Path) -> None:
    config = replace(CONFIG, partition="algorithm1")
    home = homes(tmp_path / "home", config)
    newcomer = next(name for name in map("newcomer-{}".format, range(99)) if not is_validation_user(name, 20, 0))
    rows = [Interaction(newcomer, item.item_id, True, n) for n, item in enumerate(ITEMS[:4])]
    home.ledger.import_data([], rows, None)
    assert len(home.build(config).trained) == 1


# What a generation says of itself


def test_a_manifest_states_its_configuration(home: Home) -> None:
    assert BuildConfig.of(home.manifest()["config"]) == CONFIG


def test_the_store_holds_no_user_id_no_title_and_no_path(home: Home, model: Path) -> None:
    forbidden = [*USERS, *(item.title for item in ITEMS), str(home.folder), str(model), model.name]
    for name, content in home.files().items():
        found = [text for text in forbidden if text.encode() in content or text in name]
        assert not found, name


def test_a_manifest_names_every_adapter_with_the_samples_behind_it(home: Home) -> None:
    manifest = home.manifest()
    assert sorted(adapter["digest"] for adapter in manifest["adapters"]) == home.store.adapters.digests()
    samples = [adapter["samples"] for adapter in manifest["adapters"]]
    assert max(samples) <= CONFIG.max_shard_size
    training = {row.user_id for row in INTERACTIONS if not is_validation_user(row.user_id, 20, 0)}
    assert sum(samples) == 3 * len(training)
    assert set(manifest) == {
        "adapters",
        "catalogue",
        "config",
        "environment",
        "files",
        "format",
        "frozen",
        "item_model",
        "memories",
        "noun",
        "template",
        "validation_rows",
    }


def test_a_ledger_without_training_samples_still_makes_a_generation(clean_home: Callable[..., Home]) -> None:
    home = clean_home(INTERACTIONS[:1])
    built = home.build()
    assert built.trained == ()
    assert home.adapters(built.generation) == []

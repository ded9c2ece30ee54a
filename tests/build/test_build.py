from __future__ import annotations

import random
import shutil
from dataclasses import replace

import pytest

from adapters_store import Store
from service.build.build import Builder, config_of
from service.build.workforce import Workforce
from service.data.ledger import Ledger
from service.data.samples import is_validation_user
from service.llm.encoder import ModelSpec
from service.records import BuildConfig, Interaction, Item

NOUN = "movie"
SECRET = b"the same in every home"
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


def _interactions():
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

    def __init__(self, folder, model, interactions=None, items=ITEMS, processes=2):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db", SECRET)
        self.store = Store(folder / "store")
        workforce = Workforce(processes, ("service.build.training", "service.build.validation"))
        self.builder = Builder(self.ledger, self.store, ModelSpec(str(model)), workforce, SECRET)
        if interactions is not None:
            self.ledger.import_data(items, interactions, NOUN)

    def build(self, config=CONFIG):
        """Build, publish, and erase what the new generation does not need."""
        built = self.builder.build(config)
        self.store.publish(built.generation)
        self.store.erase_except(self.adapters(built.generation), [built.generation])
        self.ledger.publish(built.generation, built.fence)
        return built

    def adapters(self, generation):
        return [adapter["digest"] for adapter in self.store.generation(generation).manifest["adapters"]]

    def files(self):
        """Every file of the store: relative path -> content."""
        root = self.store.root
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def times(self):
        return {path: path.stat().st_mtime_ns for path in self.store.root.glob("adapters/*/*")}


@pytest.fixture(scope="session")
def model(tiny_models):
    return tiny_models("llama")


@pytest.fixture(scope="session")
def homes(tmp_path_factory, model):
    """A function: configuration, folder -> a copy of the home that was built with it, which is made once."""
    built = {}

    def copy_to(folder, config=CONFIG):
        if config not in built:
            original = Home(tmp_path_factory.mktemp("home"), model, INTERACTIONS)
            original.build(config)
            original.ledger.close()
            built[config] = original.folder
        shutil.copytree(built[config], folder)
        return Home(folder, model)

    return copy_to


@pytest.fixture
def home(homes, tmp_path):
    return homes(tmp_path / "home")


@pytest.fixture
def clean_home(tmp_path, model):
    """A function: interactions -> a home that never knew any other."""
    return lambda interactions, **changed: Home(tmp_path / "clean", model, interactions, **changed)


def _without(user, item_id=None):
    return [row for row in INTERACTIONS if row.user_id != user or (item_id and row.item_id != item_id)]


# Building again


def test_a_second_build_trains_nothing_and_changes_nothing(home):
    before, files, times = home.store.active(), home.files(), home.times()
    built = home.build()
    assert built.trained == ()
    assert built.generation == before
    assert home.files() == files
    assert home.times() == times


def test_the_order_in_which_data_came_in_does_not_matter(home, clean_home):
    chance = random.Random(0)
    interactions, items = chance.sample(INTERACTIONS, len(INTERACTIONS)), chance.sample(ITEMS, len(ITEMS))
    other = clean_home(interactions, items=items)
    assert other.build().generation == home.store.active()
    assert other.files() == home.files()


def test_the_number_of_processes_does_not_matter(home, clean_home):
    other = clean_home(INTERACTIONS, processes=1)
    other.build()
    assert other.files() == home.files()

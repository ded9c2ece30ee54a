"""What methods are compared on: a catalog, a pool to draw training samples from, and fixed validation and test samples.

The validation samples serve routing only, and no test sample serves anything but the final figures. Settings are chosen on
the split of a validation run, which holds no test sample at all.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adapters_store import digest_of
from research.datasets.tallrec import TALLREC_HISTORY, tallrec_split
from research.datasets.tallrec_books import tallrec_books
from service.data import importers
from service.data.importers.files import find_file
from service.data.interactions import Interactions
from service.data.samples import canonical, is_validation_user, user_samples
from service.errors import ImportRefused, InvalidSetting
from service.records import BuildConfig, Interaction, Item, Sample

BOOK_VALIDATION = 500  # samples
SPLIT_SEED = 0  # of what is the same under every seed of a comparison
VALIDATION_RUN = " (validation)"  # behind the name of a data set whose test samples nobody has looked at

_WINDOWS_PER_USER = BuildConfig().samples_per_user
_TABLE_FORMATS = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Split:
    """One data set, cut in three. `items` hold every item that a sample names.

    In the split of a validation run both `valid` and `test` are validation samples.
    """

    dataset: str  # movielens-100k | bookcrossing | the name of the table's folder
    item_type: str
    items: tuple[Item, ...]
    train: tuple[Sample, ...]  # the pool
    valid: tuple[Sample, ...]
    test: tuple[Sample, ...]
    is_validation_run: bool = False

    def validation_run(self) -> Split:
        """This split's pool, but every second validation user routes and the others are scored in place of test samples.

        Raises InvalidSetting where fewer than two users validate.
        """
        users = sorted({sample.user_id for sample in self.valid})
        if len(users) < 2:
            raise InvalidSetting(f"{self.dataset} has {len(users)} validation users: one must route, another be scored")
        routing = set(users[::2])
        return replace(
            self,
            dataset=self.dataset + VALIDATION_RUN,
            valid=tuple(sample for sample in self.valid if sample.user_id in routing),
            test=tuple(sample for sample in self.valid if sample.user_id not in routing),
            is_validation_run=True,
        )

    def counts(self, training_samples: int) -> dict[str, int]:
        """How many samples of each part a comparison uses; of a validation run, how many validation samples it scores."""
        scored = (
            {"test": 0, "scored validation": len(self.test)} if self.is_validation_run else {"test": len(self.test)}
        )
        return {"training": training_samples, "pool": len(self.train), "validation": len(self.valid), **scored}

    def drawn(self, training_samples: int, seed: int) -> tuple[Sample, ...]:
        """The training samples of one seed: that many of the pool, in the order of the draw.

        Raises InvalidSetting where the pool holds fewer.
        """
        if training_samples > len(self.train):
            raise InvalidSetting(
                f"{training_samples:,} training samples were asked for, but {self.dataset} has only {len(self.train):,}"
            )
        return tuple(random.Random(seed).sample(self.train, training_samples))

    @property
    def digest(self) -> str:
        """SHA-256 over all samples and items; the name of the data set decides no figure."""
        parts = {
            part: [self._identity(sample) for sample in getattr(self, part)] for part in ("train", "valid", "test")
        }
        return digest_of({"noun": self.item_type, "items": [_stated(item) for item in self.items], **parts})

    def _identity(self, sample: Sample) -> dict[str, Any]:
        # The prompts alone would not do: partitions see users, and items of one title are not one item.
        ids = [sample.user_id, sample.target.item_id, [opinion.item.item_id for opinion in sample.history]]
        return {"ids": ids, **canonical(sample, self.item_type)}


def movielens_100k(folder: Path) -> Split:
    """TALLRec's split of MovieLens-100K (Bao et al. 2023): 8,000 windows, 1,000 and 1,000.

    Raises ImportRefused for missing or damaged files, and for too few ratings.
    """
    dataset = importers.movielens(folder)
    cut = tallrec_split(dataset.interactions, {item.item_id: item for item in dataset.items})
    if not cut.test:
        raise ImportRefused(f"{folder} holds too few ratings for the split of MovieLens-100K")
    return Split("movielens-100k", dataset.item_type, tuple(dataset.items), cut.train, cut.valid, cut.test)


def bookcrossing(folder: Path) -> Split:
    """TALLRec's released book prompts (Bao et al. 2023): pool and 500 for validation of `valid.json`, test of `test.json`.

    The released training file is not to be had. Which 500 validate is the same under every seed. The prompts name no users,
    so each is one user of its own. Raises ImportRefused for missing, damaged or otherwise worded files.
    """
    released, test = (tallrec_books(folder, part) for part in ("valid", "test"))
    if len(released) <= BOOK_VALIDATION or not test:
        raise ImportRefused(
            f"{folder} holds too few prompts: {len(released):,} in valid.json, {len(test):,} in test.json"
        )
    validating = set(random.Random(SPLIT_SEED).sample(range(len(released)), BOOK_VALIDATION))
    train = tuple(sample for n, sample in enumerate(released) if n not in validating)
    valid = tuple(sample for n, sample in enumerate(released) if n in validating)
    return Split("bookcrossing", "book", _catalog((*released, *test)), train, valid, test)


def table(folder: Path, item_type: str = "item", liked_above: float | None = None) -> Split:
    """A folder of one's own with the tables of `lethe import table`: `items` and `interactions`, in any of its formats.

    Whole users are cut 80/10/10 by a keyed hash of their ids, so nobody is in two parts; each gives their last windows, with
    up to ten opinions of history. `liked_above` is wanted where the interactions hold ratings. Raises ImportRefused for
    missing or damaged files, interactions of unknown items, and too few people to cut.
    """
    files = (table_file(folder, "items"), table_file(folder, "interactions"))
    dataset = importers.table(*files, liked_above, item_type)
    items = {item.item_id: item for item in dataset.items}
    train, valid, test = _parts_of_people(dataset.interactions, items)
    if not train or not valid or len({sample.liked for sample in test}) < 2:
        counts = f"{len(train):,} training, {len(valid):,} validation and {len(test):,} test samples"
        raise ImportRefused(
            f"{folder} holds too few people: they give {counts}, and both likes and dislikes are tested"
        )
    return Split(folder.resolve().name, item_type, tuple(items.values()), train, valid, test)


def _stated(item: Item) -> dict[str, Any]:
    return {name: value for name, value in asdict(item).items() if name != "created"}


def table_file(folder: Path, name: str) -> Path:
    """The table of this name in any of the formats. Raises ImportRefused where there is none."""
    found = (find_file(folder, name + suffix) for suffix in _TABLE_FORMATS)
    path = next((path for path in found if path is not None), None)
    if path is None:
        raise ImportRefused(f"no {name} file in {folder}: looked for {name}{', '.join(_TABLE_FORMATS)}")
    return path


def _parts_of_people(interactions: Iterable[Interaction], items: Mapping[str, Item]) -> tuple[tuple[Sample, ...], ...]:
    """Training, validation and test samples. Of several rows with one user and item the newest counts, as in an import."""
    by_user: dict[str, list[Interaction]] = defaultdict(list)
    for row in Interactions.of(interactions).newest():
        by_user[row.user_id].append(row)
    parts: tuple[list[Sample], list[Sample], list[Sample]] = ([], [], [])
    for user_id in sorted(by_user):
        windows = user_samples(by_user[user_id], items, TALLREC_HISTORY, _WINDOWS_PER_USER)
        parts[_part_of_person(user_id)].extend(windows)
    return tuple(tuple(part) for part in parts)


def _part_of_person(user_id: str) -> int:
    """0 to train (80 %), 1 to validate, 2 to test: one keyed hash cut at two places."""
    return 2 - sum(not is_validation_user(user_id, percent, SPLIT_SEED) for percent in (10, 20))


def _catalog(samples: Iterable[Sample]) -> tuple[Item, ...]:
    items = {item.item_id: item for sample in samples for item in (sample.target, *(o.item for o in sample.history))}
    return tuple(items[item_id] for item_id in sorted(items))

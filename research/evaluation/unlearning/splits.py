"""What the approximate methods are compared on: up to 100,000 samples in an order, cut 60/20/20, and who is to be forgotten.

The order is time for all people together, as in the paper (Wang et al. 2024). Where rows have no times, the order of a file
means nothing either (goodbooks-10k is sorted by book), so each person's rows go by a seeded hash of person and item, and are
cut person by person.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters_store import digest_of
from research.datasets.movielens_1m import TimedRow, movielens_1m
from research.evaluation.comparison.splits import table_file
from service.data import importers
from service.data.importers import Dataset
from service.data.interactions import Interactions
from service.data.samples import canonical, windows
from service.errors import ImportRefused, InvalidSetting
from service.records import Interaction, Item, Sample

SAMPLES = 100_000  # of each data set, as in the paper
FORGETTING_SHARE = 0.2  # of the people with training samples
BY_TIME = "time, for all people together"
BY_HASH = "a seeded hash of person and item, person by person"

_CUTS = (0.6, 0.8)
_SEED = 0  # of what is the same under every seed


@dataclass(frozen=True, slots=True)
class Placed:
    """A sample, where it stands in the order, and whether its time is known to the second."""

    order: tuple[int, str, int, str]  # seconds, user, place among the person's own, item
    sample: Sample
    exact: bool = True


@dataclass(frozen=True, slots=True)
class OrderedSamples:
    """All samples of one data set, and how they are ordered and cut."""

    dataset: str
    item_type: str
    items: tuple[Item, ...]
    placed: tuple[Placed, ...]  # in order
    order: str  # BY_TIME | BY_HASH

    def drawn(self, samples: int) -> OrderedSamples:
        """Whole people, drawn by a public seed, who have at most so many samples together. All, where there are no more."""
        if samples >= len(self.placed):
            return self
        counts: dict[str, int] = defaultdict(int)
        for placed in self.placed:
            counts[placed.sample.user_id] += 1
        taken, left = set(), samples
        for user in random.Random(_SEED).sample(sorted(counts), len(counts)):
            if counts[user] <= left:
                taken.add(user)
                left -= counts[user]
        kept = tuple(placed for placed in self.placed if placed.sample.user_id in taken)
        return OrderedSamples(self.dataset, self.item_type, self.items, kept, self.order)

    def cut(self) -> Cut:
        """60 % to train, 20 % to validate, 20 % to test. Raises ImportRefused where a part lacks likes or dislikes."""
        parts = _cut_by_person(self.placed) if self.order == BY_HASH else _cut_in_order(self.placed)
        train, valid, test = (tuple(placed.sample for placed in part) for part in parts)
        if any(len({sample.liked for sample in part}) < 2 for part in (train, valid, test)):
            counts = f"{len(train):,} training, {len(valid):,} validation and {len(test):,} test samples"
            raise ImportRefused(f"{self.dataset} gives {counts}; each part must hold likes and dislikes")
        inexact = sum(not placed.exact for placed in self.placed)
        return Cut(Lessons(self.dataset, self.item_type, self.items, train, valid), test, self.order, inexact)


@dataclass(frozen=True, slots=True)
class Lessons:
    """What methods and choices may see. No test sample is in it, so none can decide anything."""

    dataset: str
    item_type: str
    items: tuple[Item, ...]
    train: tuple[Sample, ...]
    valid: tuple[Sample, ...]

    def forgetting(self, seed: int) -> Forgetting:
        """A fifth of the people who have training samples, drawn by `seed`: their training samples are to be forgotten.

        Raises InvalidSetting where nobody would be left, or nobody be forgotten.
        """
        users = sorted({sample.user_id for sample in self.train})
        count = round(len(users) * FORGETTING_SHARE)
        if not 0 < count < len(users):
            raise InvalidSetting(f"{self.dataset} has {len(users)} people to train on: too few to forget a fifth")
        gone = frozenset(random.Random(f"forget {seed}").sample(users, count))
        return self.without(gone)

    def without(self, users: frozenset[str]) -> Forgetting:
        """The training samples of these people, and those of all others."""
        rows = range(len(self.train))
        return Forgetting(
            users,
            tuple(row for row in rows if self.train[row].user_id in users),
            tuple(row for row in rows if self.train[row].user_id not in users),
        )

    @property
    def digest(self) -> str:
        """SHA-256 over all samples and items."""
        parts = {name: samples_digest(getattr(self, name), self.item_type) for name in ("train", "valid")}
        items = [{name: value for name, value in asdict(item).items() if name != "created"} for item in self.items]
        return digest_of({"item_type": self.item_type, "items": items, **parts})


@dataclass(frozen=True, slots=True)
class Forgetting:
    """D_f and D_r of one seed: numbers of training samples, in order."""

    users: frozenset[str]
    forgotten: tuple[int, ...]
    retained: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """One data set in three parts, of which the last is for the final figures alone."""

    lessons: Lessons
    test: tuple[Sample, ...]
    order: str
    inexact_times: int  # samples whose time is known within an interval only

    @property
    def counts(self) -> dict[str, int]:
        """Samples of each part, and people of the training part."""
        people = len({sample.user_id for sample in self.lessons.train})
        return {
            "training": len(self.lessons.train),
            "validation": len(self.lessons.valid),
            "test": len(self.test),
            "training people": people,
            "inexact times": self.inexact_times,
        }


def samples_digest(samples: Sequence[Sample], item_type: str) -> str:
    """SHA-256 over samples in their order."""
    return digest_of([_identity(sample, item_type) for sample in samples])


def read(dataset: str, folder: Path, history: int, item_type: str, liked_above: float | None) -> OrderedSamples:
    """What a folder holds: `movielens-1m`, `movielens-100k`, `goodreads` (goodbooks-10k) or a `table`.

    Args:
        history: opinions before a target, at most.
        item_type, liked_above: for tables, as in `lethe import table`.

    Raises:
        ImportRefused: missing or damaged files.
    """
    if dataset == "movielens-1m":
        ratings = movielens_1m(folder)
        return _by_time(dataset, "movie", ratings.items, ratings.rows, history)
    if dataset == "goodreads":
        return _by_hash(dataset, importers.goodbooks(folder), history)
    if dataset == "movielens-100k":
        found = importers.movielens(folder)
        return _by_time(dataset, found.item_type, found.items, _newest(found.interactions), history)
    files = (table_file(folder, "items"), table_file(folder, "interactions"))
    table = importers.table(*files, liked_above, item_type)
    if len({row.timestamp for row in table.interactions}) < 2:
        return _by_hash(folder.resolve().name, table, history)
    return _by_time(folder.resolve().name, item_type, table.items, _newest(table.interactions), history)


def _newest(rows: Iterable[Interaction]) -> tuple[TimedRow, ...]:
    return tuple(TimedRow(row, 0, True) for row in Interactions.of(rows).newest())


def _by_time(
    name: str, item_type: str, items: Sequence[Item], rows: Iterable[TimedRow], history: int
) -> OrderedSamples:
    def order(row: TimedRow) -> tuple[int, str, int, str]:
        seconds, user = row.interaction.timestamp, row.interaction.user_id
        return seconds, user, row.place, row.interaction.item_id

    own: dict[str, list[TimedRow]] = defaultdict(list)
    for row in rows:
        own[row.interaction.user_id].append(row)
    for user_rows in own.values():
        # A known place among one's own rows outweighs a time that is not exact.
        user_rows.sort(key=lambda row: (row.place, row.interaction.timestamp, row.interaction.item_id))
    last = sorted(order(row) for rows_of in own.values() for row in rows_of[1:])[-SAMPLES:]
    first = last[0] if last else (0, "", 0, "")
    by_id = {item.item_id: item for item in items}
    placed = [
        Placed(order(row), sample, row.exact)
        for rows_of in own.values()
        for row, sample in _windows_from(rows_of, by_id, history, lambda row: order(row) >= first)
    ]
    return OrderedSamples(name, item_type, tuple(items), tuple(sorted(placed, key=lambda p: p.order)), BY_TIME)


def _windows_from(
    rows: Sequence[TimedRow], items: Mapping[str, Item], history: int, wanted: Callable[[TimedRow], bool]
) -> list[tuple[TimedRow, Sample]]:
    """The wanted rows with their windows; a person's first row has nothing before it and is none."""
    if not any(wanted(row) for row in rows[1:]):
        return []
    samples = windows([row.interaction for row in rows], items, 1, history)
    return [(row, sample) for row, sample in zip(rows[1:], samples, strict=True) if wanted(row)]


def _by_hash(name: str, dataset: Dataset, history: int) -> OrderedSamples:
    own: dict[str, list[Interaction]] = defaultdict(list)
    for row in Interactions.of(dataset.interactions).newest():
        own[row.user_id].append(row)
    items = {item.item_id: item for item in dataset.items}
    placed: list[Placed] = []
    for user in random.Random(_SEED).sample(sorted(own), len(own)):
        rows = sorted(own[user], key=_hash_of)
        if len(placed) + len(rows) - 1 > SAMPLES:
            break
        samples = windows(rows, items, 1, history)
        placed += [Placed((0, user, place, ""), sample) for place, sample in enumerate(samples)]
    ordered = tuple(sorted(placed, key=lambda p: p.order))
    return OrderedSamples(name, dataset.item_type, tuple(dataset.items), ordered, BY_HASH)


def _hash_of(row: Interaction) -> bytes:
    message = json.dumps([row.user_id, row.item_id]).encode()
    return hashlib.blake2b(message, key=str(_SEED).encode(), digest_size=16).digest()


def _cut_in_order(placed: Sequence[Placed]) -> tuple[Sequence[Placed], ...]:
    first, second = (int(share * len(placed)) for share in _CUTS)
    return placed[:first], placed[first:second], placed[second:]


def _cut_by_person(placed: Sequence[Placed]) -> tuple[Sequence[Placed], ...]:
    own: dict[str, list[Placed]] = defaultdict(list)
    for one in placed:
        own[one.sample.user_id].append(one)
    parts: tuple[list[Placed], ...] = ([], [], [])
    for user in sorted(own):
        for part, cut in zip(parts, _cut_in_order(own[user]), strict=True):
            part.extend(cut)
    return parts


def _identity(sample: Sample, item_type: str) -> dict[str, Any]:
    # Items of one title are not one item, and people who said the same are not one person.
    ids = [sample.user_id, sample.target.item_id, [opinion.item.item_id for opinion in sample.history]]
    return {"ids": ids, **canonical(sample, item_type)}

"""What one person's deletion costs under each partition: a table, for which nothing is trained.

For `tree` and `random` the partition is made again without the person, and an old shard counts as touched when no new shard
holds exactly its samples (so its adapter is gone). For `algorithm1` the partition is recorded and stays, so the shards that
hold a sample of the person are touched.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.building.planning import partition
from service.building.planning.corpus import Corpus
from service.building.planning.placement import ShardAssigner, Unit, units_of
from service.building.progress import Progress
from service.records import BuildConfig, Partition, UnitKind

Floats = NDArray[np.float32]
Shards = Mapping[str, str]  # unit key -> shard

SHARD_COUNTS = (4, 8, 16, 64)


@dataclass(frozen=True, slots=True)
class PlacementRow:
    """One partition of everybody's training samples, and what deleting each of `people` people alone would touch."""

    unit: UnitKind
    partition: Partition
    max_shard_size: int  # t, in samples
    shards: int
    largest_over_mean: float  # samples of the largest shard / of the mean shard
    people: int
    touched_mean: float  # shards
    touched_max: int
    retrained_mean: float  # adapters to train; fewer than touched where shards merge or vanish
    merges: int  # people after whose deletion shards merged


@dataclass(frozen=True, slots=True)
class Touch:
    """What one deletion does to the shards."""

    touched: int  # old shards whose content changed or is gone
    retrained: int  # new shards of a content that none had before
    merged: bool  # a new shard holds what two or more held


@dataclass(frozen=True, slots=True)
class Placed:
    """Units where they stand; embeddings (units, H). The paths are those of the two trees."""

    units: tuple[Unit, ...]
    embeddings: Floats
    paths: dict[Partition, dict[str, str]]  # partition -> unit key -> path

    @classmethod
    def of(cls, units: Sequence[Unit], embeddings: Floats, tree: partition.PublicTree, seed: int) -> Placed:
        below = {unit.key: partition.hash_path(unit.key, seed) for unit in units}
        above = {unit.key: tree.path(row) for unit, row in zip(units, embeddings, strict=True)}
        whole = {key: above[key] + path for key, path in below.items()}
        return cls(tuple(units), embeddings, {"tree": whole, "random": below})

    @property
    def sizes(self) -> dict[str, int]:
        return {unit.key: len(unit.samples) for unit in self.units}


def placement_table(
    corpus: Corpus,
    assigner: ShardAssigner,
    config: BuildConfig,
    units: Sequence[UnitKind],
    people: int,
    progress: Progress,
) -> list[PlacementRow]:
    """Every kind of unit × partition × number of shards. Each unit is embedded once."""
    tree = assigner.tree(corpus.items, corpus.item_type, config)
    drawn = random.Random(config.seed).sample(sorted(corpus.training), min(people, len(corpus.training)))
    rows = []
    for unit in units:
        found = units_of(corpus.training, corpus.item_type, replace(config, unit=unit))
        placed = Placed.of(found, assigner.embed(found, corpus.item_type), tree, config.seed)
        progress.phase(f"partitions by {unit}", 3 * len(SHARD_COUNTS))
        for row in _rows(unit, placed, drawn, config.seed):
            rows.append(row)
            progress.advance(1)
    return rows


def _rows(unit: UnitKind, placed: Placed, people: Sequence[str], seed: int) -> Iterable[PlacementRow]:
    for name in placed.paths:
        for count in SHARD_COUNTS:
            yield tree_row(unit, name, placed, count, people)
    for count in SHARD_COUNTS:
        yield recorded_row(unit, placed, count, people, seed)


def tree_row(unit: UnitKind, name: Partition, placed: Placed, count: int, people: Sequence[str]) -> PlacementRow:
    """The tree `name` with about `count` shards."""
    paths, sizes = placed.paths[name], placed.sizes
    cap = cap_for(count, lambda t: len(set(partition.shards_of_paths(paths, sizes, t).values())), sizes)
    before = partition.shards_of_paths(paths, sizes, cap)
    touches = []
    for person in people:
        own = {u.key for u in placed.units if u.user_id == person}
        rest = {key: path for key, path in paths.items() if key not in own}
        touches.append(touch(before, partition.shards_of_paths(rest, sizes, cap)))
    return _row(unit, name, cap, before, sizes, touches)


def recorded_row(unit: UnitKind, placed: Placed, count: int, people: Sequence[str], seed: int) -> PlacementRow:
    """Algorithm 1 with about `count` shards; the cap leaves room for one unit more, so that no unit is left over."""
    sizes = placed.sizes
    cap = -(-sum(sizes.values()) // count) + max(sizes.values()) - 1
    numbers = partition.algorithm1(placed.embeddings, list(sizes.values()), cap, seed)
    shards = {key: str(number) for key, number in zip(sizes, numbers, strict=True)}
    touches = []
    for person in people:
        holding = {shards[unit.key] for unit in placed.units if unit.user_id == person}
        left = {shards[unit.key] for unit in placed.units if unit.user_id != person}
        touches.append(Touch(len(holding), len(holding & left), merged=False))
    return _row(unit, "algorithm1", cap, shards, sizes, touches)


def cap_for(count: int, shards_under: Callable[[int], int], sizes: Mapping[str, int]) -> int:
    """The cap t under which the number of shards is nearest to `count`, of quarter powers of two.

    They are fixed beforehand: a cap fitted to the tree would stand just where a node begins to split, and every deletion
    there would merge two shards.
    """
    even, largest = sum(sizes.values()) / count, max(sizes.values())
    caps = sorted({round(2 ** (n / 4)) for n in range(4 * 40) if even / 4 <= 2 ** (n / 4) <= 4 * even})
    return min((cap for cap in caps if cap > largest), key=lambda t: abs(shards_under(t) - count), default=largest)


def touch(before: Shards, after: Shards) -> Touch:
    """Compare two partitions by what their shards hold; names do not count."""
    old, new = contents(before), contents(after)
    made = new - old
    merged = any(len({before[key] for key in content}) > 1 for content in made)
    return Touch(touched=len(old - new), retrained=len(made), merged=merged)


def contents(shards: Shards) -> set[frozenset[str]]:
    """The unit keys of each shard."""
    members: dict[str, set[str]] = {}
    for key, shard in shards.items():
        members.setdefault(shard, set()).add(key)
    return {frozenset(keys) for keys in members.values()}


def balance(shards: Shards, sizes: Mapping[str, int]) -> float:
    """Samples of the largest shard / of the mean shard."""
    loads: dict[str, int] = {}
    for key, shard in shards.items():
        loads[shard] = loads.get(shard, 0) + sizes[key]
    return max(loads.values()) * len(loads) / sum(loads.values())


def _row(
    unit: UnitKind, name: Partition, cap: int, shards: Shards, sizes: Mapping[str, int], touches: Sequence[Touch]
) -> PlacementRow:
    return PlacementRow(
        unit=unit,
        partition=name,
        max_shard_size=cap,
        shards=len(set(shards.values())),
        largest_over_mean=balance(shards, sizes),
        people=len(touches),
        touched_mean=sum(each.touched for each in touches) / len(touches),
        touched_max=max(each.touched for each in touches),
        retrained_mean=sum(each.retrained for each in touches) / len(touches),
        merges=sum(each.merged for each in touches),
    )

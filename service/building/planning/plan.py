"""What a generation will consist of, before anything is computed: its shards, and the users who validate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.building.memories import memory_assignment
from service.building.planning.corpus import Corpus
from service.building.planning.partition import memory_nodes
from service.building.planning.placement import (
    ShardAssigner,
    Unit,
    unit_of_user,
    units_of,
)
from service.building.training.adapters import content_of
from service.data.samples import canonical_order
from service.records import BuildConfig, Interaction, Item, Sample, Shard, ShardAssignment


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """D_k, or a memory, by what names it."""

    name: str
    content: str  # digest of its units
    samples: int  # of a memory: interactions


@dataclass(frozen=True, slots=True)
class PlannedUser:
    """A user who validates."""

    user_id: str
    digest: str  # of content and order of the samples
    samples: int


class Material(Protocol):
    """Samples and interactions, all of one reading of the ledger."""

    def shard(self, name: str) -> Shard: ...

    def memory(self, name: str) -> Sequence[Sequence[Interaction]]:
        """The interactions of each user in the memory of this name."""
        ...

    def samples(self, user_id: str) -> tuple[Sample, ...]:
        """The samples of a user who validates, in canonical order."""
        ...


class Plan(Protocol):
    """Names and sizes of everything; people and samples only of what is asked for."""

    @property
    def fence(self) -> int: ...

    @property
    def item_type(self) -> str: ...

    @property
    def items(self) -> tuple[Item, ...]:
        """The catalog that is served."""
        ...

    @property
    def horizon(self) -> int: ...

    @property
    def catalog_revision(self) -> int: ...

    @property
    def shards(self) -> Sequence[PlannedShard]: ...

    @property
    def memories(self) -> Sequence[PlannedShard]: ...

    @property
    def users(self) -> Sequence[PlannedUser]:
        """Who validates, by user id."""
        ...

    def people(self, shard: str) -> Mapping[str, int]:
        """User id -> samples in the shard, or interactions in the memory, of this name."""
        ...

    def material(self, shards: Collection[str], users: Collection[str]) -> Material:
        """What to train these shards, to count these memories and to validate these users with."""
        ...


class WholePlan:
    """Computed from everybody's samples."""

    def __init__(self, corpus: Corpus, assigner: ShardAssigner, config: BuildConfig, fence: int) -> None:
        self.fence, self.item_type = fence, corpus.item_type
        self.items = corpus.items if corpus.catalog is None else corpus.catalog
        self.horizon, self.catalog_revision = corpus.horizon, corpus.catalog_revision
        self._corpus, self._seed = corpus, config.seed
        self._members: dict[str, list[Unit]] = {}
        units = units_of(corpus.training, corpus.item_type, config)
        names = assigner.assign(units, corpus.items, corpus.item_type, config)
        for unit in units:
            self._members.setdefault(names[unit.key], []).append(unit)
        self.shards = [planned_shard(name, units) for name, units in sorted(self._members.items())]
        self._memories = _memories(corpus.interactions, config)
        self.memories = [planned_memory(name, assignments) for name, assignments in sorted(self._memories.items())]
        self.users = [
            PlannedUser(user, unit_of_user(user, samples, corpus.item_type, config).digest, len(samples))
            for user, samples in sorted(corpus.validation.items())
        ]

    def people(self, shard: str) -> Mapping[str, int]:
        """User id -> samples in a shard, or interactions in a memory, of this name."""
        if shard in self._memories:
            return {assignment.user_id: assignment.samples for assignment in self._memories[shard]}
        return Counter(sample.user_id for unit in self._members[shard] for sample in unit.samples)

    def material(self, shards: Collection[str], users: Collection[str]) -> WholePlan:
        """All of it is here."""
        return self

    def shard(self, name: str) -> Shard:
        """A planned shard with its samples."""
        return shard_of(name, self._members[name], self._seed)

    def memory(self, name: str) -> list[tuple[Interaction, ...]]:
        """The interactions of each part of a planned memory."""
        return [self._corpus.interactions[assignment.user_id] for assignment in self._memories[name]]

    def samples(self, user_id: str) -> tuple[Sample, ...]:
        """The samples of a user who validates, in canonical order."""
        return canonical_order(self._corpus.validation[user_id], self._seed)


def planned_shard(name: str, units: Sequence[Unit]) -> PlannedShard:
    """The shard of these units."""
    return PlannedShard(name, content_of(unit.digest for unit in units), sum(len(unit.samples) for unit in units))


def planned_memory(name: str, assignments: Iterable[ShardAssignment]) -> PlannedShard:
    """The memory of these users."""
    own = list(assignments)
    return PlannedShard(
        name, content_of(assignment.digest for assignment in own), sum(assignment.samples for assignment in own)
    )


def _memories(
    interactions: Mapping[str, Sequence[Interaction]], config: BuildConfig
) -> dict[str, list[ShardAssignment]]:
    assignments = sorted(
        (memory_assignment(user, rows, config) for user, rows in interactions.items()), key=lambda p: p.path
    )
    nodes = memory_nodes([p.path for p in assignments], [p.samples for p in assignments], config.memory_shard_size)
    return {node.path: assignments[node.first : node.end] for node in nodes}


def shard_of(name: str, units: Sequence[Unit], seed: int) -> Shard:
    """The shard of these units, with its samples in canonical order."""
    return Shard(name, canonical_order([sample for unit in units for sample in unit.samples], seed))

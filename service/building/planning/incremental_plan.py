"""A plan from what earlier builds remembered in the ledger: only those who changed are read, and those who are touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from service.building.memories import memory_place
from service.building.planning.corpus import Corpus, corpus_of
from service.building.planning.partition import (
    Node,
    PublicTree,
    memory_nodes,
    nodes_of_paths,
)
from service.building.planning.placement import (
    Placer,
    Unit,
    unit_of_user,
    units_of,
)
from service.building.planning.plan import PlannedShard, PlannedUser, shard_of
from service.building.training.adapters import content_of
from service.data.samples import canonical_order
from service.errors import LetheError
from service.ledger import (
    MEMORIZED,
    VALIDATES,
    Ledger,
    PlaceColumns,
    Reading,
)
from service.records import BuildConfig, Interaction, Item, LedgerView, Place, Sample, Shard

_USERS_AT_ONCE = 4_096
_NOT_AS_REMEMBERED = "what a person did is not what was remembered of them; everybody will be read anew"


class NotAsRemembered(LetheError):
    """What is held of a person is not what was remembered of them; nothing is remembered any more, so try again."""


class Memo:
    """Keeps what is remembered in line with the ledger. Meaningless for a recorded partition."""

    def __init__(self, ledger: Ledger, placer: Placer) -> None:
        self._ledger = ledger
        self._placer = placer

    def refresh(self, config: BuildConfig) -> None:
        """Read, place and remember those who changed, some at a time, each time as they are then."""
        with self._ledger.reading() as reading:
            noun, items = reading.noun, reading.items()
            outline, before = self._placer.outline(items, noun, config), reading.outline
        if before != outline:
            self._ledger.begin_outline(outline)
        tree: PublicTree | None = None
        last: str | None = None
        while True:
            with self._ledger.reading() as reading:
                changed = reading.changed(last, _USERS_AT_ONCE)
                if reading.outline != outline or not changed:
                    return
                view = reading.view(changed)
            tree = tree or self._placer.tree(items, noun, config)
            self._ledger.save_places(changed, self._places(view, tree, config))
            last = max(changed)

    def plan_if_current(self, reading: Reading, config: BuildConfig) -> RememberedPlan | None:
        """The plan of this reading; None if anybody changed since they were remembered, and so `refresh` is needed."""
        return None if reading.changed(None, 1) else self.plan(reading, config)

    def plan(self, reading: Reading, config: BuildConfig) -> RememberedPlan | None:
        """The plan of this reading; None if what is remembered there belongs to another outline."""
        items = reading.items()
        if reading.outline != self._placer.outline(items, reading.noun, config):
            return None
        fresh: list[Place] = []
        # Those who changed while the others were being remembered: as a rule nobody.
        if changed := reading.changed(None, None):
            tree = self._placer.tree(items, reading.noun, config)
            fresh = self._places(reading.view(changed), tree, config)
        return RememberedPlan(reading, items, fresh, config)

    def distrust(self) -> None:
        """Let everybody be read anew."""
        self._ledger.begin_outline("")

    def _places(self, view: LedgerView, tree: PublicTree, config: BuildConfig) -> list[Place]:
        corpus = corpus_of(view, config)
        units = units_of(corpus.training, corpus.noun, config)
        paths = self._placer.paths(units, tree, corpus.noun, config) if units else {}
        validating = (unit_of_user(user, own, corpus.noun, config) for user, own in corpus.validation.items())
        return [
            *(Place(u.key, u.user_id, paths[u.key], len(u.samples), u.digest) for u in units),
            *(Place(u.key, u.user_id, VALIDATES, len(u.samples), u.digest) for u in validating),
            *(memory_place(user, rows, config) for user, rows in view.interactions.items()),
        ]


class RememberedPlan:
    """Valid as long as the reading is open; its material outlives it."""

    def __init__(self, reading: Reading, items: tuple[Item, ...], fresh: Sequence[Place], config: BuildConfig) -> None:
        self.fence, self.noun, self.items = reading.fence, reading.noun, items
        self._reading, self._config = reading, config
        self._fresh = [place for place in fresh if place.path != VALIDATES]
        counted = [place for place in self._fresh if place.path.startswith(MEMORIZED)]
        training = [place for place in self._fresh if not place.path.startswith(MEMORIZED)]
        columns = _merged(reading.place_columns(), training)
        nodes = nodes_of_paths(columns.paths, columns.samples, config.max_shard_size)
        self.shards = [_planned(node, columns) for node in nodes]
        columns = _merged(reading.memory_columns(), counted)
        nodes = memory_nodes(columns.paths, columns.samples, config.memory_shard_size)
        self.memories = [_planned(node, columns) for node in nodes]
        validating = [*reading.validating(), *(place for place in fresh if place.path == VALIDATES)]
        self.users = sorted(
            (PlannedUser(place.user_id, place.digest, place.samples) for place in validating),
            key=lambda user: user.user_id,
        )

    def people(self, shard: str) -> Mapping[str, int]:
        """As `Plan` says."""
        people: Counter[str] = Counter()
        for place in self._members(shard):
            people[place.user_id] += place.samples
        return people

    def material(self, shards: Collection[str], users: Collection[str]) -> RememberedMaterial:
        """As `Plan` says."""
        members = {name: self._members(name) for name in shards}
        wanted = {place.user_id for own in members.values() for place in own}.union(users)
        asked = [user for user in self.users if user.user_id in users]
        return RememberedMaterial(self._reading.view(wanted), members, asked, self._config)

    def _members(self, shard: str) -> list[Place]:
        fresh = (place for place in self._fresh if place.path.startswith(shard))
        if shard:
            return [*self._reading.places_under(shard), *fresh]
        return [*self._reading.places_under(shard), *(p for p in fresh if not p.path.startswith(MEMORIZED))]


class RememberedMaterial:
    """The interactions of those who are touched, cut when they are asked for, and compared with what was remembered."""

    def __init__(
        self,
        view: LedgerView,
        members: Mapping[str, Sequence[Place]],
        users: Collection[PlannedUser],
        config: BuildConfig,
    ) -> None:
        self._view, self._members, self._config = view, members, config
        validation = self._corpus(user.user_id for user in users).validation
        self._validation = {user: unit_of_user(user, own, view.noun, config) for user, own in validation.items()}
        _compare({user.user_id: user.digest for user in users}, self._validation.values())

    def shard(self, name: str) -> Shard:
        """As `Material` says."""
        wanted = {place.unit_key: place.digest for place in self._members[name]}
        training = self._corpus({place.user_id for place in self._members[name]}).training
        units = [unit for unit in units_of(training, self._view.noun, self._config) if unit.key in wanted]
        _compare(wanted, units)
        return shard_of(name, units, self._config.seed)

    def memory(self, name: str) -> list[tuple[Interaction, ...]]:
        """As `Material` says."""
        rows = {place.user_id: self._view.interactions.get(place.user_id, ()) for place in self._members[name]}
        if any(memory_place(p.user_id, rows[p.user_id], self._config).digest != p.digest for p in self._members[name]):
            raise NotAsRemembered(_NOT_AS_REMEMBERED)
        return list(rows.values())

    def samples(self, user_id: str) -> tuple[Sample, ...]:
        """As `Material` says."""
        return canonical_order(self._validation[user_id].samples, self._config.seed)

    def _corpus(self, users: Iterable[str]) -> Corpus:
        rows = self._view.interactions
        return corpus_of(
            replace(self._view, interactions={user: rows[user] for user in users if user in rows}), self._config
        )


def _compare(remembered: Mapping[str, str], units: Iterable[Unit]) -> None:
    if {unit.key: unit.digest for unit in units} != remembered:
        raise NotAsRemembered(_NOT_AS_REMEMBERED)


def _merged(columns: PlaceColumns, fresh: Sequence[Place]) -> PlaceColumns:
    if not fresh:
        return columns
    remembered = zip(columns.paths, columns.samples, columns.digests, strict=True)
    merged = sorted([*remembered, *((place.path, place.samples, place.digest) for place in fresh)])
    paths, samples, digests = zip(*merged, strict=True)
    return PlaceColumns(list(paths), list(samples), list(digests))


def _planned(node: Node, columns: PlaceColumns) -> PlannedShard:
    own = slice(node.first, node.end)
    return PlannedShard(node.path, content_of(columns.digests[own]), sum(columns.samples[own]))

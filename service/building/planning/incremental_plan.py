"""A plan from what earlier builds remembered in the ledger: only those who changed are read, and those who are touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from service.building.memories import memory_assignment
from service.building.planning.corpus import Corpus, corpus_of_some, negative_pool
from service.building.planning.partition import (
    Node,
    PublicTree,
    memory_nodes,
    nodes_of_paths,
)
from service.building.planning.placement import (
    ShardAssigner,
    Unit,
    unit_of_user,
    units_of,
)
from service.building.planning.plan import PlannedShard, PlannedUser, shard_of
from service.building.ports import AssignmentLedger
from service.building.training.adapters import content_of
from service.data.negatives import NegativePool
from service.data.samples import canonical_order
from service.errors import LetheError
from service.ledger import (
    MEMORIZED,
    VALIDATES,
    AssignmentColumns,
    ReadTransaction,
)
from service.records import BuildConfig, Interaction, Item, LedgerView, Sample, Shard, ShardAssignment

_USERS_AT_ONCE = 4_096
_NOT_AS_REMEMBERED = "what a person did is not what was remembered of them; everybody will be read anew"


class NotAsRemembered(LetheError):
    """What is held of a person is not what was remembered of them; nothing is remembered any more, so try again."""


class IncrementalPlanner:
    """Keeps what is remembered in line with the ledger. Meaningless for a recorded partition."""

    def __init__(self, ledger: AssignmentLedger, assigner: ShardAssigner) -> None:
        self._ledger = ledger
        self._assigner = assigner

    def refresh(self, config: BuildConfig) -> None:
        """Read, place and remember those who changed, some at a time, each time as they are then."""
        with self._ledger.read_transaction() as transaction:
            item_type, items = transaction.item_type, transaction.items()
            fingerprint, before = self._assigner.fingerprint(items, item_type, config), transaction.fingerprint
        if before != fingerprint:
            self._ledger.begin_fingerprint(fingerprint)
        tree: PublicTree | None = None
        pool = negative_pool(items, config)
        last: str | None = None
        while True:
            with self._ledger.read_transaction() as transaction:
                changed = transaction.changed(last, _USERS_AT_ONCE)
                if transaction.fingerprint != fingerprint or not changed:
                    return
                view = transaction.view(changed)
            tree = tree or self._assigner.tree(items, item_type, config)
            self._ledger.save_assignments(changed, self._assignments(view, tree, pool, config))
            last = max(changed)

    def plan_if_current(self, transaction: ReadTransaction, config: BuildConfig) -> RememberedPlan | None:
        """The plan of this reading; None if anybody changed since they were remembered, and so `refresh` is needed."""
        return None if transaction.changed(None, 1) else self.plan(transaction, config)

    def plan(self, transaction: ReadTransaction, config: BuildConfig) -> RememberedPlan | None:
        """The plan of this reading; None if what is remembered there belongs to another fingerprint."""
        items = transaction.items()
        if transaction.fingerprint != self._assigner.fingerprint(items, transaction.item_type, config):
            return None
        fresh: list[ShardAssignment] = []
        pool = negative_pool(items, config)
        # Those who changed while the others were being remembered: as a rule nobody.
        if changed := transaction.changed(None, None):
            tree = self._assigner.tree(items, transaction.item_type, config)
            fresh = self._assignments(transaction.view(changed), tree, pool, config)
        return RememberedPlan(transaction, transaction.catalog(), fresh, pool, config)

    def distrust(self) -> None:
        """Let everybody be read anew."""
        self._ledger.begin_fingerprint("")

    def _assignments(
        self, view: LedgerView, tree: PublicTree, pool: NegativePool | None, config: BuildConfig
    ) -> list[ShardAssignment]:
        corpus = corpus_of_some(view, pool, config)
        units = units_of(corpus.training, corpus.item_type, config)
        paths = self._assigner.paths(units, tree, corpus.item_type, config) if units else {}
        validating = (unit_of_user(user, own, corpus.item_type, config) for user, own in corpus.validation.items())
        return [
            *(ShardAssignment(u.key, u.user_id, paths[u.key], len(u.samples), u.digest) for u in units),
            *(ShardAssignment(u.key, u.user_id, VALIDATES, len(u.samples), u.digest) for u in validating),
            *(memory_assignment(user, rows, config) for user, rows in view.interactions.items()),
        ]


class RememberedPlan:
    """Valid as long as the reading is open; its material outlives it."""

    def __init__(
        self,
        transaction: ReadTransaction,
        items: tuple[Item, ...],
        fresh: Sequence[ShardAssignment],
        pool: NegativePool | None,
        config: BuildConfig,
    ) -> None:
        self.fence, self.item_type, self.items = transaction.fence, transaction.item_type, items
        self.horizon, self.catalog_revision = transaction.horizon, transaction.catalog_revision
        self._transaction, self._pool, self._config = transaction, pool, config
        self._fresh = [assignment for assignment in fresh if assignment.path != VALIDATES]
        counted = [assignment for assignment in self._fresh if assignment.path.startswith(MEMORIZED)]
        training = [assignment for assignment in self._fresh if not assignment.path.startswith(MEMORIZED)]
        columns = _merged(transaction.assignment_columns(), training)
        nodes = nodes_of_paths(columns.paths, columns.samples, config.max_shard_size)
        self.shards = [_planned(node, columns) for node in nodes]
        columns = _merged(transaction.memory_columns(), counted)
        nodes = memory_nodes(columns.paths, columns.samples, config.memory_shard_size)
        self.memories = [_planned(node, columns) for node in nodes]
        validating = [*transaction.validating(), *(assignment for assignment in fresh if assignment.path == VALIDATES)]
        self.users = sorted(
            (PlannedUser(assignment.user_id, assignment.digest, assignment.samples) for assignment in validating),
            key=lambda user: user.user_id,
        )

    def people(self, shard: str) -> Mapping[str, int]:
        """User id -> samples in a shard, or interactions in a memory, of this name."""
        people: Counter[str] = Counter()
        for assignment in self._members(shard):
            people[assignment.user_id] += assignment.samples
        return people

    def material(self, shards: Collection[str], users: Collection[str]) -> RememberedMaterial:
        """The rows of these shards and memories, and of these users who validate, read of the ledger."""
        members = {name: self._members(name) for name in shards}
        wanted = {assignment.user_id for own in members.values() for assignment in own}.union(users)
        asked = [user for user in self.users if user.user_id in users]
        return RememberedMaterial(self._transaction.view(wanted), members, asked, self._pool, self._config)

    def _members(self, shard: str) -> list[ShardAssignment]:
        fresh = (assignment for assignment in self._fresh if assignment.path.startswith(shard))
        if shard:
            return [*self._transaction.assignments_under(shard), *fresh]
        return [*self._transaction.assignments_under(shard), *(p for p in fresh if not p.path.startswith(MEMORIZED))]


class RememberedMaterial:
    """The interactions of those who are touched, cut when they are asked for, and compared with what was remembered."""

    def __init__(
        self,
        view: LedgerView,
        members: Mapping[str, Sequence[ShardAssignment]],
        users: Collection[PlannedUser],
        pool: NegativePool | None,
        config: BuildConfig,
    ) -> None:
        self._view, self._members, self._pool, self._config = view, members, pool, config
        validation = self._corpus(user.user_id for user in users).validation
        self._validation = {user: unit_of_user(user, own, view.item_type, config) for user, own in validation.items()}
        _compare({user.user_id: user.digest for user in users}, self._validation.values())

    def shard(self, name: str) -> Shard:
        """A planned shard with its samples."""
        wanted = {assignment.unit_key: assignment.digest for assignment in self._members[name]}
        training = self._corpus({assignment.user_id for assignment in self._members[name]}).training
        units = [unit for unit in units_of(training, self._view.item_type, self._config) if unit.key in wanted]
        _compare(wanted, units)
        return shard_of(name, units, self._config.seed)

    def memory(self, name: str) -> list[tuple[Interaction, ...]]:
        """The interactions of each part of a planned memory."""
        rows = {
            assignment.user_id: self._view.interactions.get(assignment.user_id, ())
            for assignment in self._members[name]
        }
        if any(
            memory_assignment(p.user_id, rows[p.user_id], self._config).digest != p.digest for p in self._members[name]
        ):
            raise NotAsRemembered(_NOT_AS_REMEMBERED)
        return list(rows.values())

    def samples(self, user_id: str) -> tuple[Sample, ...]:
        """The samples of a user who validates, in canonical order."""
        return canonical_order(self._validation[user_id].samples, self._config.seed)

    def _corpus(self, users: Iterable[str]) -> Corpus:
        rows = self._view.interactions
        some = replace(self._view, interactions={user: rows[user] for user in users if user in rows})
        return corpus_of_some(some, self._pool, self._config)


def _compare(remembered: Mapping[str, str], units: Iterable[Unit]) -> None:
    if {unit.key: unit.digest for unit in units} != remembered:
        raise NotAsRemembered(_NOT_AS_REMEMBERED)


def _merged(columns: AssignmentColumns, fresh: Sequence[ShardAssignment]) -> AssignmentColumns:
    if not fresh:
        return columns
    remembered = zip(columns.paths, columns.samples, columns.digests, strict=True)
    merged = sorted([*remembered, *((assignment.path, assignment.samples, assignment.digest) for assignment in fresh)])
    paths, samples, digests = zip(*merged, strict=True)
    return AssignmentColumns(list(paths), list(samples), list(digests))


def _planned(node: Node, columns: AssignmentColumns) -> PlannedShard:
    own = slice(node.first, node.end)
    return PlannedShard(node.path, content_of(columns.digests[own]), sum(columns.samples[own]))

"""The whole function: ledger -> generation. It computes only what the store lacks, and publishes nothing.

Everything is named by the digest of what it was made from, so what did not change is found instead of made again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store import (
    DamagedArtifact,
    MissingArtifact,
    Store,
    StoredGeneration,
    StoreFault,
    canonical_json,
    digest_of,
)
from service.arrays import array_bytes
from service.building.item_model import FORMAT as ITEM_MODEL
from service.building.item_model import ItemModelTask, solve_item_model
from service.building.known import KnownArtifacts, OnDamage, ignore_damage
from service.building.memories import MemoryMaker, memory_digest
from service.building.planning.corpus import Corpus, corpus_of
from service.building.planning.embedding import PublicTextsTask, embed_public_texts
from service.building.planning.incremental_plan import IncrementalPlanner, NotAsRemembered
from service.building.planning.placement import KnownCells, ShardAssigner
from service.building.planning.plan import (
    Material,
    Plan,
    PlannedShard,
    PlannedUser,
    WholePlan,
)
from service.building.ports import BuildLedger
from service.building.progress import Checkpoint, GaveWay, Progress, Silent
from service.building.training.adapters import AdapterMaker
from service.building.training.training import EncodedSample
from service.building.training.validation_table import (
    KnownRows,
    RowMaker,
    RowsAhead,
    ValidationUser,
    WantedRows,
    row_keys,
)
from service.building.workers.prefill import MANNER
from service.building.workers.prefill_cache import PrefillCache
from service.building.workers.process_pool import TaskRunner
from service.data import prompts
from service.generation import AdapterEntry, Manifest, MemoryEntry, is_current
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.memory.content import facts_of
from service.memory.item_model import FILES as ITEM_MODEL_FILES
from service.records import BuildConfig, Item, ModelIdentity, Published

_ITEMS_A_TASK = 1024
_RECORDED_AT_ONCE = 512  # shards, in one transaction
_TRAINED_AT_ONCE = 256  # shards


@dataclass(frozen=True, slots=True)
class Built:
    """A complete generation in the store, not yet published, and what its making took."""

    published: Published  # what the ledger is to note of it
    trained: tuple[str, ...]  # digests of the adapters that had to be trained
    shards: dict[str, str]  # adapter digest -> name of its shard
    rows: frozenset[str]  # keys of the validation rows
    memories: dict[str, str]  # digest -> name of its node

    @property
    def generation(self) -> str:
        return self.published.generation

    @property
    def fence(self) -> int:
        return self.published.fence


@dataclass(frozen=True, slots=True)
class Work:
    """What a generation will consist of, and what must be computed for it."""

    fence: int
    horizon: int
    catalog_revision: int
    item_type: str
    items: tuple[Item, ...]
    catalog: str  # digest of the items, and of what embeds them
    shards: dict[str, PlannedShard]  # by their adapters' digests
    users: list[ValidationUser]
    missing: list[str]  # digests of adapters
    memories: dict[str, PlannedShard]  # by their digests
    uncounted: list[str]  # digests of memories
    previous: StoredGeneration | None
    known: KnownRows
    material: Material


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was made, beside what is in the store, for the full build that will move the horizon there."""

    horizon: int
    config: BuildConfig
    trained: set[str] = field(default_factory=set)  # digests of adapters
    cells: KnownCells = field(default_factory=KnownCells)
    rows: RowsAhead = field(default_factory=RowsAhead)

    @property
    def people(self) -> frozenset[str]:
        """The ids of those of whom it holds something."""
        return self.cells.people | self.rows.people

    def forget(self, users: Collection[str], adapters: Collection[str]) -> None:
        """Keep nothing of these users, and nothing that these adapters said."""
        self.cells.forget(users)
        self.rows.forget(users, adapters)


class Builder:
    """Makes generations from one ledger and one frozen model into one store."""

    def __init__(
        self,
        ledger: BuildLedger,
        store: Store,
        model: ModelSpec,
        process_pool: TaskRunner,
        secret: bytes,
        environment: Mapping[str, str],
        progress: Progress | None = None,
        prefill_cache: PrefillCache | None = None,
        on_damage: OnDamage = ignore_damage,
    ) -> None:
        """`environment` is what `process_pool` computes with; it decides digests as the rows do.

        `prefill_cache` keeps what is read of people's contexts for the next build; by default nothing is kept. `on_damage` is
        told of what the store holds and should not.
        """
        self._ledger = ledger
        self._store = store
        self._tokenizer = PromptTokenizer.load(model)
        self._model = replace(model, answers=self._tokenizer.answers)  # whoever computes gets token ids
        self._process_pool = process_pool
        self._secret = secret
        self._progress: Progress = progress or Silent()
        self._environment = environment
        self._prefill_cache = prefill_cache or PrefillCache(0)
        self._seen_fence = 0  # up to which deletions have wiped prefills
        self._on_damage = on_damage
        self._checkpoint = Checkpoint()
        self._ahead: Ahead | None = None
        self._known_adapters = KnownArtifacts(store.adapters, secret, on_damage)
        self._known_memories = KnownArtifacts(store.memories, secret, on_damage)
        self._adapters = AdapterMaker(
            self._known_adapters,
            self._tokenizer,
            self._model,
            process_pool,
            self._progress,
            self._environment,
            self._prefill_cache,
            self._checkpoint,
        )
        self._memories = MemoryMaker(self._known_memories, self._progress, self._checkpoint)
        self._assigner = ShardAssigner(
            ledger, self._tokenizer, self._model, process_pool, self._progress, self._environment, self._checkpoint
        )
        self._planner = IncrementalPlanner(ledger, self._assigner)

    @property
    def frozen(self) -> ModelIdentity:
        """The model that adapters are trained on."""
        return ModelIdentity(self._tokenizer.digest, self._model.dtype)

    @property
    def _made_with(self) -> dict[str, Any]:
        """What the bits of everything computed here depend on, beside its own inputs."""
        return {
            "frozen": asdict(self.frozen),
            "pooling": self._tokenizer.pooling,
            "read": MANNER,
            "environment": self._environment,
        }

    def build(self, config: BuildConfig) -> Built:
        """Read of the ledger, at one moment, what is needed, and make its generation."""
        if config.partition == "algorithm1" or not self._ledger.remembers:
            view = self._ledger.view()
            return self.build_corpus(corpus_of(view, config), config, view.fence)
        try:
            return self._make(self._work_from_memory(config), config)
        except NotAsRemembered:
            self._planner.distrust()
            raise

    def make_ahead(self, config: BuildConfig, is_urgent: Callable[[], bool]) -> bool:
        """Make what the full build under way will need and what takes long, while the horizon stays where it is.

        Whether all of them are there: False if it gave way, once `is_urgent` said so, to what is more urgent. It is asked each
        time something was made, which is kept, so to call it again is to go on.
        """
        if config.partition == "algorithm1" or not self._ledger.remembers:
            return True  # to plan is to record a partition, so it may be done only once
        try:
            with self._checkpoint.giving_way(is_urgent):
                ahead, work = self._work_when_due(config)
                ahead.trained.update(work.missing)
                self._make_memories(work)
                self._train_missing(work, config)
                self._rows(ahead.rows).make_ahead(self._wanted_rows(work), config)
        except GaveWay:
            return False
        except NotAsRemembered:
            self._planner.distrust()
            raise
        return True

    def build_corpus(self, corpus: Corpus, config: BuildConfig, fence: int) -> Built:
        """Make the generation of a corpus that was read at `fence`. Nothing is remembered of it.

        Raises:
            LetheError, StoreFailure: nothing half-made is left where it could be served.
        """
        return self._make(self._work(WholePlan(corpus, self._assigner, config, fence), config), config)

    def wipe_forgotten(self, plan_fence: int | None = None) -> None:
        """Keep nothing of what was read of people of whom a deletion came since this was last done.

        A build that was planned at `plan_fence` may leave prefills of people who were forgotten after it.
        """
        ahead = self._ahead
        people = self._prefill_cache.people.union(() if ahead is None else ahead.people)
        now, users = self._ledger.forgotten_since(self._seen_fence, people)
        self._prefill_cache.forget(users)
        if ahead is not None:
            ahead.forget(users, self._ledger.mask().adapters)
        self._seen_fence = now if plan_fence is None else plan_fence

    def _work_from_memory(self, config: BuildConfig) -> Work:
        plan: Plan | None
        with self._ledger.read_transaction() as transaction:
            plan = self._planner.plan_if_current(transaction, config)
            if plan is not None:  # as a rule: a deletion changes nobody who stays
                return self._work(plan, config)
        self._planner.refresh(config)
        with self._ledger.read_transaction() as transaction:
            plan = self._planner.plan(transaction, config)
            if plan is None:  # another process builds in another way just now
                plan = WholePlan(corpus_of(transaction.view(), config), self._assigner, config, transaction.fence)
            return self._work(plan, config)

    def _work_when_due(self, config: BuildConfig) -> tuple[Ahead, Work]:
        with self._ledger.read_transaction_when_due() as transaction:
            ahead = self._ahead_of(transaction.horizon, config) or Ahead(transaction.horizon, config)
            self._use(ahead)
            plan: Plan | None = self._planner.plan(transaction, config)
            if plan is None:  # the catalog or the configuration has changed so that everybody is placed anew
                plan = WholePlan(corpus_of(transaction.view(), config), self._assigner, config, transaction.fence)
            return ahead, self._work(plan, config, ahead=True)

    def _use(self, ahead: Ahead | None) -> None:
        self._ahead = ahead
        self._assigner.use(None if ahead is None else ahead.cells)

    def _ahead_of(self, horizon: int, config: BuildConfig) -> Ahead | None:
        """What was made ahead of the full build that moves the horizon there with this configuration."""
        ahead = self._ahead
        return ahead if ahead is not None and (ahead.horizon, ahead.config) == (horizon, config) else None

    def _make(self, work: Work, config: BuildConfig) -> Built:
        ahead = self._ahead_of(work.horizon, config)
        self._make_memories(work)
        item_model = digest_of([ITEM_MODEL, self._environment, config.min_people, list(work.memories), work.catalog])
        before = None if work.previous is None else Manifest.of(work.previous.manifest)
        with self._item_model(work, before, config, item_model) as item_model_files:
            self._train_missing(work, config)
            rows = self._rows(None if ahead is None else ahead.rows)
            files = rows.files(self._wanted_rows(work), config) | self._catalog_files(work, before)
            files |= item_model_files()
        manifest = self._manifest(work, config, item_model)
        trained = work.missing
        if ahead is not None:
            trained = [digest for digest in work.shards if digest in ahead.trained or digest in work.missing]
            self._use(None)  # it is of no use any more
        return Built(
            published=Published(
                self._store.add_generation(manifest.stated(), files),
                work.fence,
                config,
                self.frozen,
                self._environment,
                horizon=work.horizon,
                catalog=work.catalog_revision,
            ),
            trained=tuple(trained),
            shards={digest: shard.name for digest, shard in work.shards.items()},
            rows=frozenset(key for user in work.users for key in user.keys),
            memories={digest: memory.name for digest, memory in work.memories.items()},
        )

    # What there should be, and what of it there is not

    def _work(self, plan: Plan, config: BuildConfig, ahead: bool = False) -> Work:
        """`ahead`: of a full build under way, whose validation rows nobody will look up yet."""
        self.wipe_forgotten(plan.fence)
        shards = {self._adapters.digest_by_content(shard.content, config): shard for shard in plan.shards}
        memories = {memory_digest(memory.content): memory for memory in plan.memories}
        users = [self._validation_user(user, config) for user in plan.users]
        # Recorded before anything is trained: a deletion that comes now must know what will have seen its user.
        self._record_lineage(plan, shards, () if ahead else users, memories)
        previous = self._previous()
        missing, uncounted = self._known_adapters.missing(shards), self._known_memories.missing(memories)
        known = KnownRows.of(previous, self.frozen)
        lacking = {user.user_id for lack in known.lacking(users, list(shards)) for user in lack.users}
        names = [shards[digest].name for digest in missing] + [memories[digest].name for digest in uncounted]
        material = plan.material(names, lacking)
        catalog = digest_of([self._made_with, [_row_of(item) for item in plan.items]])
        return Work(
            fence=plan.fence,
            horizon=plan.horizon,
            catalog_revision=plan.catalog_revision,
            item_type=plan.item_type,
            items=plan.items,
            catalog=catalog,
            shards=shards,
            users=users,
            missing=missing,
            memories=memories,
            uncounted=uncounted,
            previous=previous,
            known=known,
            material=material,
        )

    def _record_lineage(
        self,
        plan: Plan,
        shards: Mapping[str, PlannedShard],
        users: Sequence[ValidationUser],
        memories: Mapping[str, PlannedShard],
    ) -> None:
        """Record who will have seen what, of those artifacts alone of which not everybody is known yet.

        An artifact's name decides whom it has seen, so nobody else is known of it, and equal sums mean everybody. Who is
        forgotten from now on is masked by what is known now; and who was forgotten before is not among those known.
        """
        with self._ledger.read_transaction() as transaction:
            known = transaction.exposed()
        rows = {key: user.user_id for user in users for key in user.keys if ("row", key) not in known}
        open_ = [digest for digest, shard in shards.items() if known.get(("adapter", digest)) != shard.samples]
        for first in range(0, max(len(open_), bool(rows)), _RECORDED_AT_ONCE):
            some = {digest: shards[digest].name for digest in open_[first : first + _RECORDED_AT_ONCE]}
            people = {digest: Counter(plan.people(name)).elements() for digest, name in some.items()}
            self._ledger.record_lineage(plan.fence, people, rows if first == 0 else {}, some)
        open_ = [digest for digest, memory in memories.items() if known.get(("memory", digest)) != memory.samples]
        for first in range(0, len(open_), _RECORDED_AT_ONCE):
            some = {digest: memories[digest].name for digest in open_[first : first + _RECORDED_AT_ONCE]}
            counted = {digest: plan.people(name) for digest, name in some.items()}
            self._ledger.record_lineage(plan.fence, {}, {}, some, counted)

    # Adapters

    def _make_memories(self, work: Work) -> None:
        self._memories.make({digest: work.material.memory(work.memories[digest].name) for digest in work.uncounted})

    def _train_missing(self, work: Work, config: BuildConfig) -> None:
        self._ledger.set_shards_training(len(work.missing))
        try:
            # Some at a time: the tokens of everybody's samples may not fit into memory.
            for first in range(0, len(work.missing), _TRAINED_AT_ONCE):
                some = work.missing[first : first + _TRAINED_AT_ONCE]
                shards = {digest: work.material.shard(work.shards[digest].name) for digest in some}
                self._adapters.train(shards, work.item_type, config)
        finally:
            self._ledger.set_shards_training(0)

    # Validation rows and catalog

    def _validation_user(self, user: PlannedUser, config: BuildConfig) -> ValidationUser:
        batch = digest_of([self._made_with, config.activation, user.digest])
        return ValidationUser(user.user_id, row_keys(self._secret, user.user_id, batch, user.samples))

    def _rows(self, ahead: RowsAhead | None) -> RowMaker:
        return RowMaker(
            self._known_adapters.read,
            self._model,
            self._process_pool,
            self._progress,
            self._prefill_cache,
            ahead,
            self._checkpoint,
        )

    def _wanted_rows(self, work: Work) -> WantedRows:
        def encoded_samples_of(user_id: str) -> tuple[EncodedSample, ...]:
            return self._adapters.encoded_samples(work.material.samples(user_id), work.item_type)

        return WantedRows(work.users, list(work.shards), work.known, encoded_samples_of)

    def _catalog_files(self, work: Work, before: Manifest | None) -> dict[str, bytes]:
        if work.previous is not None and before is not None and before.catalog == work.catalog:
            embeddings = work.previous.read("item_embeddings.npy")
        else:
            embeddings = array_bytes(self._embed_items(work.items))
        return {
            "items.json": canonical_json([item.item_id for item in work.items]),
            "item_embeddings.npy": embeddings,
            "item_facts.npy": array_bytes(facts_of(work.items)),
        }

    @contextmanager
    def _item_model(
        self, work: Work, before: Manifest | None, config: BuildConfig, name: str
    ) -> Iterator[Callable[[], dict[str, bytes]]]:
        """Begin to solve the item model, which no adapter has a part in; what is given waits for its files."""
        previous = work.previous
        if previous is not None and before is not None and before.item_model == name:
            yield lambda: {file: previous.read(file) for file in ITEM_MODEL_FILES}
            return
        memories = tuple(self._known_memories.stated(digest) for digest in work.memories)
        task = ItemModelTask(memories, tuple(item.item_id for item in work.items), config.min_people)
        with self._process_pool.beside(solve_item_model, task) as solved:

            def waited_for() -> dict[str, bytes]:
                self._progress.phase("solving the item model", 1)
                files = solved()
                self._progress.advance(1)
                return files

            yield waited_for

    def _embed_items(self, items: Sequence[Item]) -> NDArray[np.float32]:
        rows = [self._tokenizer.item(item) for item in items]
        tasks = [
            PublicTextsTask(self._model, tuple(rows[i : i + _ITEMS_A_TASK])) for i in range(0, len(rows), _ITEMS_A_TASK)
        ]
        self._progress.phase("embedding the catalog", len(items))
        parts = dict(self._process_pool.run(embed_public_texts, tasks, self._progress.advance))
        found = [parts[number] for number in range(len(tasks))]
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    def _manifest(self, work: Work, config: BuildConfig, item_model: str) -> Manifest:
        return Manifest(
            model=self.frozen,
            template=prompts.TEMPLATE_VERSION,
            item_type=work.item_type,
            catalog=work.catalog,
            config=config,
            environment=self._environment,
            adapters=tuple(
                AdapterEntry(digest, shard.name, shard.samples, self._known_adapters.files(digest))
                for digest, shard in work.shards.items()
            ),
            memories=tuple(
                MemoryEntry(digest, memory.name, memory.samples, self._known_memories.files(digest))
                for digest, memory in work.memories.items()
            ),
            item_model=item_model,
            validation_rows=sum(len(user.keys) for user in work.users),
        )

    def _previous(self) -> StoredGeneration | None:
        """The generation that the ledger calls published, as the store holds it; and what it states is known from here on."""
        # It saves work only, so one that cannot be read is not worth refusing to build.
        named, previous = self._ledger.generation(), None
        adapters: Mapping[str, Mapping[str, str]] = {}
        memories: Mapping[str, Mapping[str, str]] = {}
        try:
            if named is not None:
                previous = self._store.generation(named)
                adapters, memories = previous.artifacts()
        except DamagedArtifact as failure:
            self._on_damage(StoreFault("generation", named or "", str(failure)))
        except MissingArtifact:
            pass  # a dry run builds into an empty store
        self._known_adapters.begin(adapters)
        self._known_memories.begin(memories)
        return previous if previous is not None and is_current(previous.manifest) else None


def _row_of(item: Item) -> list[Any]:
    # Not `asdict`, which copies deeply: a catalog is long, and every deletion looks at it.
    row = [item.item_id, item.title, item.year, item.genres, item.author]
    # Earlier versions embedded these as what they mean to the model, and others quoted as they stood.
    return [*row, prompts.item_text(item)] if _was_read_otherwise(item) else row


def _was_read_otherwise(item: Item) -> bool:
    facts = (item.title, item.author or "", *item.genres)
    return any(prompts.may_hold_special_tokens(fact) or prompts.opens_a_title(fact) for fact in facts)

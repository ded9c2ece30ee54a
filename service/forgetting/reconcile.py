"""Owed deletions -> build -> publish -> erase -> receipt.

Level-triggered: each pass compares what the ledger wants with what the store holds and closes the difference. Every step may
be repeated, so a crash anywhere is repaired by the next pass. Several deletions that wait cost one build.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from adapters_store import Findings, Inspector, Store, StoreFailure
from service.building.builder import Built
from service.errors import LetheError, SecretChanged, StoreError
from service.forgetting.bell import Bell
from service.forgetting.erasure import ErasureAudit, ErasureAuditor
from service.forgetting.incidents import INCIDENTS, Incidents
from service.forgetting.ports import ReconciledLedger
from service.forgetting.receipts import ReceiptSigner, receipt_content
from service.forgetting.schedule import BuildSchedule
from service.generation import Manifest, is_current
from service.records import BuildConfig, ForgetRequest

log = logging.getLogger(__name__)

Stated = Mapping[str, Mapping[str, Mapping[str, str]]]  # adapters | memories -> digest -> file name -> SHA-256

_LONGEST_PAUSE = 300.0  # seconds between two attempts at a deletion that keeps failing
_HEARTBEAT = 5.0  # seconds after which a worker looks at the ledger even if nobody rang


class StopSignal(Protocol):
    """Says whether the worker was asked to end."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class GenerationBuilder(Protocol):
    """Makes generations from the ledger: what a pass needs of a `Builder`."""

    def build(self, config: BuildConfig) -> Built:
        """A complete generation in the store, not yet published. Raises LetheError, StoreFailure."""
        ...

    def make_ahead(self, config: BuildConfig, is_urgent: Callable[[], bool]) -> bool:
        """Make what the full build under way will need; False if it gave way to something urgent, and is to go on.

        Raises LetheError, StoreFailure.
        """
        ...

    def wipe_forgotten(self) -> None:
        """Drop from this process's memory whatever was kept there of people who are no longer in the ledger."""
        ...


class Reconciler:
    """Brings the store in line with the ledger. `first_config` serves where nothing is published yet."""

    def __init__(
        self,
        ledger: ReconciledLedger,
        store: Store,
        builder: GenerationBuilder,
        bell: Bell,
        signer: ReceiptSigner,
        first_config: BuildConfig,
        incidents: Incidents | None = None,
        schedule: BuildSchedule | None = None,
    ) -> None:
        """By default no full build is scheduled."""
        self._ledger = ledger
        self._store = store
        self._builder = builder
        self._bell = bell
        self._signer = signer
        self._first_config = first_config
        self._incidents = incidents or Incidents(store.root.parent / INCIDENTS)
        self._schedule = schedule or BuildSchedule()
        self._inspector = Inspector(store)
        self._nodes: dict[
            str, str
        ] = {}  # memory -> its node: of what was published when a pass began, and what it made

    def reconcile_once(self) -> bool:
        """One pass if anything is owed or out of line; says whether there was.

        Raises:
            LetheError, StoreFailure: the pass failed. Requests are `failed` with the reason, and still owed.
        """
        if self._ledger.pending() or not self._in_line():
            # A deletion's build reads of everybody who stays what the build before it read, however much has arrived since.
            self.rebuild(self.config(), advance=self._ledger.generation() is None)
            return True
        if self._ledger.is_full_build_under_way() or self._schedule.is_due(self._ledger):
            self.rebuild(self.config())
            return True
        return False

    def rebuild(self, config: BuildConfig, advance: bool = True) -> Built:
        """Build from the ledger as it is, publish, erase what is no longer used, and complete what that settles.

        With `advance` all counts that has arrived by now: a full build. Else what counted in the build before.
        """
        if advance:
            self._schedule.note()
            self._make_ahead(config)
            self._ledger.advance_horizon()
        self._nodes = _nodes_of(self._look_at_published())
        ids = [request.request_id for request in self._ledger.pending()]
        pending = self._ledger.start(ids)
        try:
            built = self._builder.build(config)
            self._nodes |= built.memories
            self._publish(built)
            self._erase(built)
            # One that came while the ledger was being read may not be in what was built; the next pass has it.
            if settled := [request for request in pending if request.fence <= built.fence]:
                self._complete(settled, built)
        except Exception as error:
            # Whatever it was, the requests say that they failed; a bug must not look like patience.
            self._ledger.fail(ids, reason(error))
            raise
        self._incidents.repaired()
        self._bell.ring()
        return built

    def _make_ahead(self, config: BuildConfig) -> None:
        """Make what takes long of a full build while the horizon stays where it is, so that no deletion waits for it."""
        if self._ledger.generation() is None:
            return  # nothing is served that could be built without somebody
        if not self._ledger.would_horizon_move() and config == self.config():
            return  # then it is no longer than a deletion's
        self._ledger.begin_full_build()
        if self._is_something_owed():
            self.rebuild(self.config(), advance=False)
        while not self._builder.make_ahead(config, self._is_something_owed):
            self.rebuild(self.config(), advance=False)

    def _is_something_owed(self) -> bool:
        return bool(self._ledger.pending()) or self._ledger.is_behind()

    def run(self, stop: StopSignal, first_pause: float) -> None:
        """Settle whenever somebody rings, and every few seconds; after a failure pause, twice as long each time.

        Raises SecretChanged when the secret was rotated meanwhile.
        """
        pause = first_pause
        while not stop.is_set():
            try:
                self._builder.wipe_forgotten()  # another worker may have the work, but what is in this memory is ours
                self._settle_alone()
                pause = first_pause
            except SecretChanged:
                raise  # only a process that is started anew reads the new secret
            except Exception as error:
                told = {"reason": reason(error), "retry_in_seconds": pause}
                log.warning("reconcile_failed", extra=told, exc_info=not isinstance(error, LetheError | StoreFailure))
                stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._bell.wait(_HEARTBEAT)

    def _settle_alone(self) -> None:
        try:
            with self._bell.courtesy_lock() as held:
                while held and self.reconcile_once():
                    log.info("reconciled")
        finally:
            self._store.forget_read()  # before another worker has the work, and erases what it can reach

    def _in_line(self) -> bool:
        """What the ledger calls published is what the store serves, as its manifest states it, and nothing else is there.

        An older version's generation lacks what this one serves; and what a worker that was overtaken and died has left may
        have seen somebody whose deletion is completed. A full build that did not come to its end has moved the horizon.
        """
        if self._ledger.generation() is None:
            return self._ledger.counts().interactions == 0
        if self._ledger.is_behind():
            return False
        found = self._look_at_published()
        return found is not None and found.clean and found.manifest is not None and is_current(found.manifest)

    def _look_at_published(self) -> Findings | None:
        """Tell and count what is damaged, before it is made again; None where nothing can be looked at."""
        generation = self._ledger.generation()
        if generation is None:
            return None
        try:
            found = self._inspector.look(generation, ahead=self._made_ahead())
        except StoreFailure:
            return None
        self._incidents.note_all(found.faults)
        if found.clean:
            self._incidents.repaired()
        return found

    def _made_ahead(self) -> frozenset[str]:
        return frozenset().union(*self._ledger.made_ahead())

    def config(self) -> BuildConfig:
        """How to build: as the published generation was. A deletion never changes how the model is built."""
        published = self._ledger.published()
        return self._first_config if published is None else published.config

    def _publish(self, built: Built) -> None:
        self._store.publish(built.generation)
        if not self._ledger.publish(built.published, built.shards, built.rows, built.memories):
            # The store now differs from the ledger, so the next pass builds again and erases what was made here.
            raise StoreError(
                "another worker published meanwhile, perhaps with later deletions; this generation is dropped"
            )
        sys.audit("lethe.reconcile.published")
        self._bell.ring()

    def _erase(self, built: Built) -> None:
        adapters, memories = self._ledger.made_ahead()
        self._store.erase_except(built.shards, built.memories, [built.generation], adapters | memories)
        sys.audit("lethe.reconcile.erased")
        self._ledger.drop_lineage_except(
            adapters.union(built.shards), built.rows, built.generation, memories.union(built.memories)
        )
        self._ledger.erase_traces()

    def _complete(self, requests: Sequence[ForgetRequest], built: Built) -> None:
        audit = ErasureAuditor(self._ledger, self._store).search(requests)
        if audit.found:
            raise StoreError(f"what a deletion should have erased is still there ({_named(audit)})")
        stated = self._stated_files(built.generation)
        for request in requests:
            completed_at = max(self._ledger.now(), request.masked_at, request.retraining_at or 0.0)
            receipt = self._receipt(request, built, stated, audit, completed_at)
            sys.audit("lethe.reconcile.before_receipt")
            self._ledger.complete(request.request_id, receipt, completed_at)
            sys.audit("lethe.reconcile.completed")

    def _stated_files(self, generation: str) -> Stated:
        """What the published manifest states, after the store was found to be so. Raises StoreError if it is not."""
        found = self._inspector.look(generation, ahead=self._made_ahead())
        self._incidents.note_all(found.faults)
        if found.faults or found.manifest is None:
            reasons = [fault.reason for fault in found.faults]
            raise StoreError(
                f"the store was changed while it was written, so no receipt is signed: {' '.join(reasons[:1])}"
            )
        manifest = Manifest.of(found.manifest)
        return {
            "adapters": {adapter.digest: adapter.files for adapter in manifest.adapters},
            "memories": {memory.digest: memory.files for memory in manifest.memories},
        }

    def _receipt(
        self, request: ForgetRequest, built: Built, stated: Stated, audit: ErasureAudit, completed_at: float
    ) -> str:
        affected = zip(request.affected_shards, request.shard_names, strict=True)
        adapters = {digest: _successor(digest, shard, built.shards) for digest, shard in affected}
        memories = self._ledger.masked_by(request.request_id).memories
        return self._signer.sign(
            receipt_content(
                request,
                published=built.published,
                adapters=adapters,
                memories=memories,
                completed_at=completed_at,
                audit=audit,
                files=self._files(built, stated, {digest for digest in adapters.values() if digest}, memories),
            )
        )

    def _files(self, built: Built, stated: Stated, adapters: Collection[str], masked: Collection[str]) -> Stated:
        """The SHA-256 of each file of these adapters, and of the memories that stand where the masked ones stood.

        After a crash it is no longer known where these stood, and then those of all memories are stated.
        """
        of_memories = stated["memories"]
        if all(digest in self._nodes for digest in masked):
            names = [self._nodes[digest] for digest in masked]
            of_memories = {
                digest: files
                for digest, files in of_memories.items()
                if any(_related(built.memories[digest], name) for name in names)
            }
        return {
            "adapters": {digest: stated["adapters"][digest] for digest in sorted(adapters)},
            "memories": of_memories,
        }


def _nodes_of(found: Findings | None) -> dict[str, str]:
    """Memory -> its node of the tree, as the published manifest states it."""
    if found is None or found.manifest is None or not is_current(found.manifest):
        return {}
    return {memory.digest: memory.shard for memory in Manifest.of(found.manifest).memories}


def _related(node: str, other: str) -> bool:
    """Whether one of two nodes of a tree stands at or below the other."""
    return node.startswith(other) or other.startswith(node)


def reason(error: Exception) -> str:
    """What may be told of a failure to anybody: an operating system's error may name a path, so its kind only."""
    return str(error) if isinstance(error, LetheError | StoreFailure) else type(error).__name__


def _named(audit: ErasureAudit) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')}: {number}"
        for name, number in audit.stated().items()
        if number and name != "found" and not name.endswith("_searched")
    )


def _successor(digest: str, shard: str | None, after: Mapping[str, str]) -> str | None:
    """The adapter that now stands where `digest` stood: of its shard, or of the one that its shard was merged into."""
    if digest in after:
        return digest
    if shard is None:
        return None
    by_name = {name: successor for successor, name in after.items()}
    merged = (by_name[shard[:end]] for end in range(len(shard), -1, -1) if shard[:end] in by_name)
    return next(merged, None)

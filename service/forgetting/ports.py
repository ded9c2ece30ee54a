"""What forgetting asks of the ledger: the few methods that each of its parts needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from service.ledger import (
    AcceptedForget,
    ColumnSearch,
    Event,
    EventOutcome,
    LedgerCounts,
    Lifted,
    MaskedArtifacts,
    RestraintStatus,
)
from service.records import (
    COMMAND_LINE,
    Correction,
    ForgetRequest,
    Interaction,
    ItemName,
    Mask,
    Published,
    Requester,
    Restraint,
    RestraintKind,
    RestrictionGround,
    Tombstone,
    WantedForget,
)


class PublishedLedger(Protocol):
    """Knows what is served, and from which view of the rows it was built."""

    def published(self) -> Published | None: ...

    def generation(self) -> str | None: ...


class TombstoneLedger(Protocol):
    """Holds what keeps the forgotten from coming back; of one request, or of all."""

    def tombstones(self, request_id: str | None = None) -> list[Tombstone]: ...


class IntakeLedger(Protocol):
    """Accepts deletions: erases rows and sets masks in one transaction."""

    def forget(
        self,
        user_id: str,
        item_ids: Sequence[ItemName] | None,
        idempotency_key: str | None,
        remember: bool = False,
        by: Requester = COMMAND_LINE,
    ) -> AcceptedForget: ...

    def forget_all(self, wanted: Sequence[WantedForget], remember: bool, by: Requester) -> list[AcceptedForget]: ...

    def forget_again(self, user_id: str, item_ids: Sequence[ItemName] | None) -> AcceptedForget: ...

    def rectify(
        self,
        user_id: str,
        correction: Correction,
        idempotency_key: str | None,
        by: Requester = COMMAND_LINE,
    ) -> AcceptedForget: ...

    def merge(
        self, user_id: str, into: str, idempotency_key: str | None, by: Requester = COMMAND_LINE
    ) -> AcceptedForget: ...

    def complete_all(self, done: Iterable[tuple[str, str, float]]) -> None: ...

    def published(self) -> Published | None: ...


class ArrivalLedger(Protocol):
    """Takes events in, past the tombstones."""

    def take_events(self, events: Sequence[Event], allow_returning: bool = False) -> list[EventOutcome]: ...

    def tombstones_over(self, interactions: Iterable[Interaction]) -> list[Tombstone]: ...


class RestraintLedger(Protocol):
    """Holds whose data is restricted, and of whom nothing may be erased."""

    def status(self, user_id: str, kind: RestraintKind) -> RestraintStatus | None: ...

    def restrict(self, user_id: str, ground: RestrictionGround, by: Requester) -> RestraintStatus: ...

    def lift_restriction(self, user_id: str, by: Requester) -> Lifted: ...

    def hold(self, user_id: str, ground: str, by: Requester) -> RestraintStatus: ...

    def release_hold(self, user_id: str, by: Requester) -> Lifted: ...


class RestoredRestraints(Protocol):
    """May be from before restraints were set, or lifted."""

    def restore(self, known: Sequence[Restraint], ended: Collection[str]) -> tuple[int, list[Restraint]]: ...


class RestoredLedger(Protocol):
    """May have been restored from a backup that knows people who were forgotten since."""

    @property
    def restraints(self) -> RestoredRestraints: ...

    def restore_tombstones(self, known: Iterable[Tombstone]) -> tuple[int, list[Tombstone]]: ...

    def resurrected_users(self) -> dict[str, list[str] | None]: ...


class SearchedLedger(Protocol):
    """Can be searched for a text, column by column, and as the bytes of its file."""

    def search(self, text: str) -> ColumnSearch: ...

    def file(self) -> Path | None: ...

    def image(self) -> bytes: ...


class AuditedLedger(PublishedLedger, TombstoneLedger, Protocol):
    """Names what had seen somebody, and who is held."""

    def mask(self) -> Mask: ...

    def masked_by(self, request_id: str) -> MaskedArtifacts: ...

    def counts(self) -> LedgerCounts: ...

    def item_ids(self) -> frozenset[str]: ...

    def unnamed_items(self) -> int: ...

    def subjects(self, user_id: str) -> tuple[str, ...]: ...

    def resurrected_users(self) -> dict[str, list[str] | None]: ...


class ReconciledLedger(AuditedLedger, Protocol):
    """Says what is owed, and is told how far it is done."""

    def now(self) -> float: ...

    def pending(self) -> list[ForgetRequest]: ...

    def is_behind(self) -> bool: ...

    def beyond_horizon(self) -> int: ...

    def would_horizon_move(self) -> bool: ...

    def begin_full_build(self) -> None: ...

    def is_full_build_under_way(self) -> bool: ...

    def made_ahead(self) -> tuple[frozenset[str], frozenset[str]]: ...

    def advance_horizon(self) -> int: ...

    def start(self, request_ids: Iterable[str]) -> list[ForgetRequest]: ...

    def fail(self, request_ids: Iterable[str], reason: str) -> None: ...

    def complete(self, request_id: str, receipt: str, completed_at: float) -> None: ...

    def publish(
        self, published: Published, adapters: Collection[str], rows: Collection[str], memories: Collection[str] = ()
    ) -> bool: ...

    def drop_lineage_except(
        self, adapters: Collection[str], rows: Collection[str], generation: str, memories: Collection[str] = ()
    ) -> None: ...

    def erase_traces(self) -> None: ...

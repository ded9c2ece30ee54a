"""What building asks of the ledger: the few methods that each of its parts needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol

from service.ledger import ReadTransaction
from service.records import LedgerView, Mask, ShardAssignment


class PartitionLedger(Protocol):
    """Keeps a recorded partition, which cannot be derived again: unit key -> shard."""

    def recorded_partition(self, partition_digest: str) -> dict[str, str]: ...

    def record_partition(self, partition_digest: str, rows: Iterable[tuple[str, str, str]]) -> None: ...

    def prune_partition(self, partition_digest: str, units: Collection[str]) -> None: ...


class AssignmentLedger(Protocol):
    """Remembers of each person their path in the public tree, under a fingerprint of everything that is not theirs."""

    def read_transaction(self) -> AbstractContextManager[ReadTransaction]: ...

    def read_transaction_when_due(self) -> AbstractContextManager[ReadTransaction]: ...

    def begin_fingerprint(self, fingerprint: str) -> None: ...

    def save_assignments(self, changed: Mapping[str, int], assignments: Sequence[ShardAssignment]) -> None: ...


class BuildLedger(PartitionLedger, AssignmentLedger, Protocol):
    """Holds what generations are made of, and notes who is in what is made before it is made."""

    remembers: ClassVar[bool]  # whether a build may use what earlier ones remembered

    def view(self) -> LedgerView: ...

    def generation(self) -> str | None: ...

    def mask(self) -> Mask: ...

    def forgotten_since(self, fence: int, users: Collection[str]) -> tuple[int, frozenset[str]]: ...

    def record_lineage(
        self,
        view_fence: int,
        adapters: Mapping[str, Iterable[str]],
        rows: Mapping[str, str],
        shards: Mapping[str, str] | None = None,
        memories: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None: ...

    def set_shards_training(self, count: int) -> None: ...

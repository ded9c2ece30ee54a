"""A ledger for builds whose result is only compared, never served."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from service.ledger import Ledger
from service.records import ShardAssignment


class DryRunLedger(Ledger):
    """Reads as the ledger does and notes nothing of a build: no deletion may name an adapter that was never served."""

    remembers = False  # nor does it trust what an earlier build remembered

    def begin_fingerprint(self, fingerprint: str) -> None:
        """Note nothing."""

    def save_assignments(self, changed: Mapping[str, int], assignments: Sequence[ShardAssignment]) -> None:
        """Note nothing."""

    def record_partition(self, partition_digest: str, rows: Iterable[tuple[str, str, str]]) -> None:
        """Note nothing."""

    def prune_partition(self, partition_digest: str, units: Collection[str]) -> None:
        """Note nothing."""

    def record_lineage(
        self,
        view_fence: int,
        adapters: Mapping[str, Iterable[str]],
        rows: Mapping[str, str],
        shards: Mapping[str, str] | None = None,
        memories: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Note nothing."""

    def set_shards_training(self, count: int) -> None:
        """Note nothing."""

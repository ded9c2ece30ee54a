"""A ledger for builds whose result is only compared, never served."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from service.data.ledger import Ledger


class RehearsalLedger(Ledger):
    """Reads as the ledger does and notes nothing of a build: no deletion may name an adapter that was never served."""

    def placements(self) -> dict[str, tuple[str, str]]:
        """None: a rehearsal does not trust what an earlier build remembered."""
        return {}

    def prune_placements(self, units: Collection[str]) -> None:
        """Note nothing."""

    def save_placements(self, rows: Iterable[tuple[str, str, str, str]]) -> None:
        """Note nothing."""

    def record_partition(self, partition_digest: str, rows: Iterable[tuple[str, str, str]]) -> None:
        """Note nothing."""

    def prune_partition(self, partition_digest: str, units: Collection[str]) -> None:
        """Note nothing."""

    def record_exposures(
        self,
        view_fence: int,
        adapters: Mapping[str, Iterable[str]],
        rows: Mapping[str, str],
        shards: Mapping[str, str] | None = None,
    ) -> None:
        """Note nothing."""

    def set_shards_training(self, count: int) -> None:
        """Note nothing."""

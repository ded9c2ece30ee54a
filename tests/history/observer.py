"""The privileged observer: reads in the ledger's own database what has seen whom. It never writes."""

from __future__ import annotations

import sqlalchemy as sa

Seen = frozenset[tuple[str, str]]  # (kind, key) of adapters and validation rows


class Observer:
    """Safe to share among threads."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        self._masked: dict[str, Seen] = {}

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def seen(self, user_id: str) -> Seen:
        """What has seen this person until now."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.text("SELECT kind, key FROM exposures WHERE user_id = :u"), {"u": user_id})
            return frozenset((row.kind, row.key) for row in found)

    def look(self) -> None:
        """Note all masks: that a build under way has read somebody's rows turns out only when it records that."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.text("SELECT kind, key, request_id FROM masks")).all()
        for row in found:
            self._masked[row.request_id] = self.masked_for(row.request_id) | {(row.kind, row.key)}

    def masked_for(self, request_id: str) -> Seen:
        """What was masked for this deletion at any of the looks."""
        return self._masked.get(request_id, frozenset())

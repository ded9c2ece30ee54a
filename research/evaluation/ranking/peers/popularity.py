"""Popularity: what most people like comes first, for everybody."""

from __future__ import annotations

from research.evaluation.ranking.knowledge import Knowledge
from research.evaluation.ranking.peers.peer import Model, Options, Peer


def fit(knowledge: Knowledge, _options: Options) -> Model:
    """Counts likes."""
    counts = knowledge.counts.astype(float)
    return lambda _history, _options: counts


PEER = Peer("popularity", fit)

"""EASE^R (Steck 2019): each item predicted linearly from all others, in closed form; also with newer likes counting more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from research.evaluation.ranking.knowledge import History, Knowledge
from research.evaluation.ranking.peers.co_occurrence import MOST_ITEMS, co_likes
from research.evaluation.ranking.peers.peer import (
    FADING,
    Doubles,
    Model,
    Options,
    Peer,
    grid,
)


def fit(knowledge: Knowledge, options: Options) -> Model:
    """B = I − P · diag(1 / diag(P)) with P = (XᵀX + λI)⁻¹, λ being `penalty`. Whoever likes nothing gets what is popular.

    Asked with `fading` below 1, a like counts that much of the next newer one.
    """
    likes = np.asarray(knowledge.counts, np.float64)
    gram = co_likes(knowledge).astype(np.float64)
    gram[np.diag_indices_from(gram)] += options["penalty"]
    weights = np.linalg.inv(gram)
    weights /= -np.diag(weights)[None, :].copy()
    np.fill_diagonal(weights, 0.0)

    def scores(history: History, options: Options) -> Doubles:
        if not len(history.likes):
            return likes
        ages = np.arange(len(history.likes))[::-1]
        return np.asarray(options.get(FADING, 1.0) ** ages @ weights[history.likes])

    return scores


PEER = Peer("ease", fit, grid(penalty=(50, 100, 200, 400, 800)), most_items=MOST_ITEMS)
RECENT = replace(PEER, name="ease-recent", asking=grid(fading=(0.7, 0.8, 0.85, 0.9, 0.95, 0.98)), needs_order=True)

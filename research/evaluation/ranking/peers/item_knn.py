"""ItemKNN (Sarwar et al. 2001): items like those that a person likes, by the cosine of who likes them."""

from __future__ import annotations

import numpy as np

from research.evaluation.ranking.knowledge import History, Knowledge
from research.evaluation.ranking.peers.co_occurrence import MOST_ITEMS, co_likes
from research.evaluation.ranking.peers.peer import (
    Doubles,
    Model,
    Options,
    Peer,
    grid,
)


def fit(knowledge: Knowledge, options: Options) -> Model:
    """Keeps of every item its `neighbors` most similar ones. Whoever likes nothing gets what is popular."""
    likes = np.asarray(knowledge.counts, np.float64)
    similar = co_likes(knowledge)
    np.fill_diagonal(similar, 0)
    scale = np.sqrt(np.maximum(likes, 1))
    similar /= scale[:, None]
    similar /= scale[None, :]
    kept = min(int(options["neighbors"]), max(1, knowledge.items - 1))
    similar[similar < np.partition(similar, -kept, axis=0)[-kept][None]] = 0

    def scores(history: History, _options: Options) -> Doubles:
        return np.asarray(similar[history.likes].sum(axis=0, dtype=np.float64)) if len(history.likes) else likes

    return scores


PEER = Peer("itemknn", fit, grid(neighbors=(20, 50, 100, 200, 400)), most_items=MOST_ITEMS)

"""Session-based kNN (Jannach and Ludewig 2017), a person's whole history being their session.

Of all people those are found who like most of what the asking person liked lately, and what these like is recommended.
"""

from __future__ import annotations

import numpy as np

from research.evaluation.ranking.knowledge import History, Knowledge
from research.evaluation.ranking.peers.peer import (
    FADING,
    Doubles,
    Model,
    Options,
    Peer,
    grid,
)


def fit(knowledge: Knowledge, _options: Options) -> Model:
    """Keeps everybody's likes. Whoever likes nothing gets what is popular.

    Asked with `neighbors`, how many people are looked at, and `fading`, what a like counts of the next newer one
    (1 by default).
    """
    people, items = knowledge.pairs()
    count = len(knowledge.histories)
    likes = np.asarray(knowledge.counts, np.float64)
    size = np.sqrt(np.maximum(np.bincount(people, minlength=count), 1))

    def scores(history: History, options: Options) -> Doubles:
        if not len(history.likes):
            return likes
        weights = np.zeros(knowledge.items)
        weights[history.likes] = options.get(FADING, 1.0) ** np.arange(len(history.likes))[::-1]
        closeness = np.bincount(people, weights[items], minlength=count) / size
        least = np.sort(closeness)[-min(int(options["neighbors"]), count)]
        near = np.where((closeness >= least) & (closeness > 0), closeness, 0.0)
        return np.asarray(np.bincount(items, near[people], minlength=knowledge.items), np.float64)

    return scores


PEER = Peer("session-knn", fit, asking=grid(neighbors=(20, 50, 100, 200), fading=(0.6, 0.7, 0.8, 0.9, 0.95, 1.0)))

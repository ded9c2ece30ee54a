"""iALS (Hu et al. 2008): factors of people and items from implicit likes, by the `implicit` library."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares

from research.evaluation.ranking.knowledge import History, Knowledge
from research.evaluation.ranking.peers.co_occurrence import likes_matrix
from research.evaluation.ranking.peers.peer import (
    Doubles,
    Model,
    Options,
    Peer,
    grid,
)

_ROUNDS = 15
_SEED = 0
_THREADS = 1  # sums of several threads would come in any order


def fit(knowledge: Knowledge, options: Options) -> Model:
    """Factors items; a person's factors are solved from their likes when they ask, so strangers are asked for as well.

    Whoever likes nothing gets what is popular.
    """
    likes = np.asarray(knowledge.counts, np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # about threads of other libraries: it is slower, and no wronger
        learned = AlternatingLeastSquares(
            factors=int(options["factors"]),
            regularization=options["regularization"],
            alpha=options["alpha"],
            iterations=_ROUNDS,
            num_threads=_THREADS,
            random_state=_SEED,
        )
        learned.fit(likes_matrix(knowledge), show_progress=False)

    def scores(history: History, _options: Options) -> Doubles:
        if not len(history.likes):
            return likes
        liked = np.ones(len(history.likes), np.float32)
        places = (np.zeros(len(liked), np.int64), history.likes)
        row = scipy.sparse.csr_matrix((liked, places), shape=(1, knowledge.items))
        return np.asarray(learned.recalculate_user(0, row) @ learned.item_factors.T, np.float64).ravel()

    return scores


PEER = Peer("ials", fit, grid(factors=(32, 64, 128), regularization=(3.0, 10.0, 30.0), alpha=(1.0, 4.0)))

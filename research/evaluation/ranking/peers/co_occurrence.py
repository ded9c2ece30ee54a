"""How many people like two items both: what neighbors of items and EASE^R are computed from."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from research.evaluation.ranking.knowledge import Knowledge

MOST_ITEMS = 20_000  # of a dense matrix of items by items: 3.2 GB in double precision


def likes_matrix(knowledge: Knowledge) -> scipy.sparse.csr_matrix:
    """1 for every like, people by items."""
    people, items = knowledge.pairs()
    shape = (len(knowledge.histories), knowledge.items)
    return scipy.sparse.csr_matrix((np.ones(len(items), np.float32), (people, items)), shape=shape)


def co_likes(knowledge: Knowledge) -> NDArray[np.float32]:
    """(N, N): people who like both items; on the diagonal, people who like the item."""
    likes = likes_matrix(knowledge)
    return np.asarray((likes.T @ likes).toarray(), np.float32)

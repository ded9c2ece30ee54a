"""FAISS: an embedding -> its nearest stored rows by inner product of unit vectors. The only file that knows faiss."""

from __future__ import annotations

from collections.abc import Iterable

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class Neighbors:
    """An exact index over V rows of unit length, (V, H)."""

    def __init__(self, embeddings: Floats) -> None:
        self.count, self.width = embeddings.shape
        self._index = faiss.IndexFlatIP(self.width)
        if self.count:
            self._index.add(np.ascontiguousarray(embeddings))

    def nearest(self, queries: Floats, n: int, excluded: Iterable[int] = ()) -> Indices:
        """Row numbers (B, n) nearest first; fewer columns where fewer rows are left. `excluded` rows are never given."""
        hidden = np.unique(np.fromiter(excluded, dtype=np.int64))
        left = self.count - len(hidden)
        if left <= 0 or n <= 0:
            return np.empty((len(queries), 0), dtype=np.int64)
        parameters = None
        if len(hidden):
            selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(hidden))
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg] # set by SWIG
        _, rows = self._index.search(np.ascontiguousarray(queries), min(n, left), params=parameters)
        found: Indices = rows
        return found

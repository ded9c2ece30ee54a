"""FAISS: an embedding -> its nearest stored rows by inner product of unit vectors. The only file that knows faiss.

Rows lie in a flat index of the processor, and where faiss has a GPU also in a clone of it there. Both are exact. Where an
index takes no selector, more rows are fetched by as many as are excluded, and the excluded ones dropped; what a GPU cannot give
in one search, the processor does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_MOST_ON_A_GPU = 2048  # rows that one search of faiss gives there
_SCRATCH = 64 * 2**20  # bytes of a GPU that one index may use on the way
_PROBED_WITHOUT = (0, 13, 26, 39, 52)  # rows


class FlatIndex(Protocol):
    """A flat index of faiss, or what behaves as one: raises RuntimeError where it cannot do what it is asked."""

    def search(self, queries: Floats, n: int, *, params: Any = None) -> tuple[Floats, Indices]: ...


Clone = Callable[[Any], FlatIndex]  # of an index of the processor


@dataclass(frozen=True, slots=True)
class IndexPlace:
    """Where indexes are searched, and in `where` why there. `most`: rows that a clone gives in one search."""

    where: str
    clone: Clone | None = None
    most: int = _MOST_ON_A_GPU


ON_CPU = IndexPlace("cpu: the model computes there")


class Neighbors:
    """An exact index over V rows of unit length, (V, H). Any thread may search it."""

    def __init__(self, embeddings: Floats, place: IndexPlace = ON_CPU) -> None:
        self.count, self.width = embeddings.shape
        self.where = place.where
        self._index = faiss.IndexFlatIP(self.width)
        if self.count:
            self._index.add(np.ascontiguousarray(embeddings))
        self._most = place.most
        self._turn = threading.Lock()  # a GPU's scratch memory is for one search at a time
        self._clone = self._cloned(place) if self.count else None
        self._selects = self._clone is not None and takes_selectors(self._clone, embeddings[:1])

    def nearest(self, queries: Floats, n: int, excluded: Iterable[int] = ()) -> Indices:
        """Row numbers (B, n) nearest first; fewer columns where fewer rows are left. `excluded` rows are never given."""
        hidden = np.unique(np.fromiter(excluded, dtype=np.int64))
        left = self.count - len(hidden)
        if left <= 0 or n <= 0:
            return np.empty((len(queries), 0), dtype=np.int64)
        rows, wanted = np.ascontiguousarray(queries), min(n, left)
        fetched = wanted if self._selects else wanted + len(hidden)
        if self._clone is None or fetched > self._most:
            return _selected(self._index, rows, wanted, hidden)
        with self._turn:
            if self._selects:
                return _selected(self._clone, rows, wanted, hidden)
            return _filtered(self._clone, rows, wanted, hidden)

    def _cloned(self, place: IndexPlace) -> FlatIndex | None:
        if place.clone is None:
            return None
        try:
            return place.clone(self._index)
        except RuntimeError:  # as faiss says that memory is full
            self.where = "cpu: the GPU has no room for the index"
            return None


def index_place(device: str) -> IndexPlace:
    """Where to search beside a model on `device`: on its GPU, if faiss can; else on the processor, and why."""
    if device == "cpu":
        return ON_CPU
    number = int(device.partition(":")[2] or 0)
    if not hasattr(faiss, "StandardGpuResources"):
        return IndexPlace("cpu: this faiss has no GPU support; install faiss-gpu-cu12 in place of faiss-cpu")
    if number >= faiss.get_num_gpus():
        return IndexPlace(f"cpu: faiss sees {faiss.get_num_gpus()} GPU(s), and the model is on {device}")
    return tried(IndexPlace(f"{device}: a flat index there, cloned from the processor's", _cloner(number)))


def tried(place: IndexPlace) -> IndexPlace:
    """The place, if an index there finds what one of the processor finds; otherwise the processor, and why."""
    rows = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    try:
        found = Neighbors(rows, place).nearest(rows, 3, _PROBED_WITHOUT)
    except RuntimeError as error:
        return IndexPlace(f"cpu: an index on the GPU failed its probe ({type(error).__name__})")
    if not np.array_equal(found, Neighbors(rows).nearest(rows, 3, _PROBED_WITHOUT)):
        return IndexPlace("cpu: an index on the GPU found other rows than the processor's")
    return place


def takes_selectors(index: FlatIndex, first: Floats) -> bool:
    """Whether an index whose row 0 is `first` (1, H), of unit length, leaves that out where a selector excludes it.

    One that takes a selector and ignores it would give what is masked.
    """
    try:
        rows = _selected(index, np.ascontiguousarray(first), 1, np.zeros(1, np.int64))
    except RuntimeError:
        return False
    return 0 not in rows


def _selected(index: Any, queries: Floats, n: int, hidden: Indices) -> Indices:
    parameters = None
    if len(hidden):
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(hidden))
        parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg] # set by SWIG
    _, rows = index.search(queries, n, params=parameters)
    found: Indices = rows
    return found


def _filtered(index: FlatIndex, queries: Floats, n: int, hidden: Indices) -> Indices:
    """Filter after the search: of n + |hidden| rows at most |hidden| are hidden, so the n nearest others are among them."""
    _, rows = index.search(queries, n + len(hidden))
    if not len(hidden):
        return rows
    order = np.argsort(np.isin(rows, hidden), axis=1, kind="stable")
    return np.take_along_axis(rows, order[:, :n], axis=1)


def _cloner(number: int) -> Clone:
    gpu: Any = faiss  # another build of faiss has what the types of this one do not name

    def clone(index: Any) -> FlatIndex:
        resources = gpu.StandardGpuResources()
        resources.setTempMemory(_SCRATCH)
        options = gpu.GpuClonerOptions()
        options.useFloat16 = False
        found: FlatIndex = gpu.index_cpu_to_gpu(resources, number, index, options)
        return found

    return clone

"""EASE^R (Steck 2019): an item-item model solved from the counts in closed form, for catalogs that are small enough.

    B = I − P · diag(P)^-1,  P = (G + λ I)^-1

G are the numbers of people who liked both of two items. λ is 300, or less where people have little in common: beside sparse
counts a large λ leaves hardly more than the counts themselves, so that what is popular speaks for what is popular. Without the
pairs that too few people made G need not be positive definite, so λ grows until the sum is by far.

The model has seen everybody who is counted, so it belongs to one generation, is solved anew for the next, and does not answer
while anybody is masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.arrays import array_bytes, load_array
from service.memory.counting import NEWEST
from service.memory.live import LiveCounts
from service.memory.retrieval import READ, Doubles, Evidence, Taste

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]

FILES = NUMBERS, WEIGHTS = "item_model_items.npy", "item_model.npy"  # of a generation

MOST_ITEMS = 2_048  # the most liked ones; solving takes time that grows with the cube
LEAST_LIKES = 3
REGULARIZATION = 300.0  # λ
_OF_A_ROW = 0.4  # λ at most, as a share of what a row of G adds up to in the mean
_FADING = 0.97


def modeled_items(live: LiveCounts) -> Numbers:
    """(M,): the catalog numbers of the items that the model is about, in order."""
    most_liked = np.argsort(-live.likes, kind="stable")[:MOST_ITEMS]
    return np.sort(most_liked[live.likes[most_liked] >= LEAST_LIKES])


def gram(live: LiveCounts, items: Numbers) -> Doubles:
    """(M, M): how many people liked both of two items; pairs of too few count as none."""
    place = np.full(len(live.likes), -1, np.int64)
    place[items] = np.arange(len(items))
    found = np.zeros((len(items), len(items)))
    for row, item in enumerate(items.tolist()):
        pairs = live.together(item)
        among = place[pairs.items] >= 0
        found[row, place[pairs.items[among]]] = pairs.people[among]
    found[np.diag_indices(len(items))] = live.likes[items]
    return found


def solve(counts: Doubles) -> Floats:
    """(M, M): what a like of the row's item says of the column's one. In float64, on the caller's number of threads."""
    if not len(counts):
        return np.zeros((0, 0), np.float32)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_shifted(counts, regularization(counts))))
    weights = -inverse / inverse.diagonal()
    weights.fill_diagonal_(0.0)
    return np.ascontiguousarray(weights.numpy(), np.float32)


def regularization(counts: Doubles) -> float:
    """λ for counts (M, M), doubled until half of it makes them positive definite.

    Just enough would leave directions in which the solution is arbitrary: on MovieLens-100K with pairs of five people, 300 is
    7 more than the least that can be solved, and ranks worse than no item model.
    """
    found = min(REGULARIZATION, _OF_A_ROW * float(counts.sum(axis=1).mean()))
    while not _positive_definite(_shifted(counts, found / 2)):
        found *= 2
    return found


def _shifted(counts: Doubles, amount: float) -> torch.Tensor:
    shifted = torch.from_numpy(counts.copy())
    shifted.diagonal().add_(amount)
    return shifted


def _positive_definite(matrix: torch.Tensor) -> bool:
    return int(torch.linalg.cholesky_ex(matrix).info) == 0


@dataclass(frozen=True, slots=True)
class ItemModel:
    """The solved model: M catalog numbers in order, and the (M, M) weights."""

    items: Numbers
    weights: Floats

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> ItemModel | None:
        """The model among a generation's files; None if an older version made the generation, without any."""
        if not files.keys() >= set(FILES):
            return None
        return cls(load_array(files[NUMBERS]).astype(np.int64), load_array(files[WEIGHTS]))

    def share(self, live: LiveCounts) -> float:
        """How much of what it could be about it is about, 0 to 1: of a large catalog it knows the most liked part."""
        return len(self.items) / max(1, len(self.items), int((live.likes >= LEAST_LIKES).sum()))

    def files(self) -> dict[str, bytes]:
        """File name -> content."""
        return {NUMBERS: array_bytes(self.items), WEIGHTS: array_bytes(self.weights)}

    def evidence(self, taste: Taste) -> Iterator[Evidence]:
        """What each of the newest likes says of the model's items, the newest first."""
        place = {item: row for row, item in enumerate(self.items.tolist())}
        read, fading = (READ, _FADING) if taste.ordered else (NEWEST, 1.0)
        newest = [item for item in taste.likes if item in place][-read:][::-1]
        columns = self.items.astype(np.int32)
        for age, source in enumerate(newest):
            amounts = np.asarray(self.weights[place[source]] * fading**age, np.float64)
            yield Evidence(source, columns, amounts)

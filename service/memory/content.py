"""What counts say of known items, carried over by public facts to those that hardly anybody has rated.

A ridge regression from an item's facts to what speaks for it in the eyes of one history: fitted on the items that have been
liked, read off for the others. It is the attribute mapping of Gantner et al. (2010, "Learning Attribute-to-Feature Mappings for
Cold-Start Recommendations"), for the scores of a neighborhood model instead of latent features. Facts are nobody's, and the
scores are those of the counts that a mask allows, so nothing stays here that a deletion has to look for.

Shapes: N items of the catalog, F facts, H width of an embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.memory.counting import Ints
from service.records import Item

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

_CATEGORIES = 64  # the most frequent ones of a catalog
# Years before the newest item of the catalog. An age between two of them is a bit of both.
_AGES = np.array([0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89], np.float64)
_DIRECTIONS = 64  # of an embedding, those along which the catalog differs most
_SAMPLED = 4_096  # items that say which directions these are
_LENGTH = 3.0  # of an embedding beside facts that are 0 or 1
_RIDGE = 10.0
THIN_LIKES = 20  # with more, an item's own counts say enough
_THIN = 1.0  # likes at which an item's own counts and its content weigh the same


def thinness(likes: Ints) -> Doubles:
    """(N,): 1 for an item that nobody has liked, towards 0 for one that many have."""
    return np.asarray(_THIN / (_THIN + likes), np.float64)


def facts_of(items: Sequence[Item]) -> Floats:
    """(N, F): which of the catalog's categories an item has, and how old it is beside the newest one."""
    return np.concatenate([_categories(items), _ages(items)], axis=1).astype(np.float32)


class Content:
    """The facts of a catalog, and where its texts stand: what a regression reads of its items."""

    def __init__(self, facts: Floats, embeddings: Floats) -> None:
        """`facts` (N, F) are those of `facts_of`, `embeddings` (N, H) what the frozen model made of the items' texts."""
        ones = np.ones((len(embeddings), 1), np.float32)
        self._categories = _telling(facts[:, : -len(_AGES)])
        self._read = np.concatenate([facts, _directions(embeddings), ones], axis=1)
        self._fit: _Fit | None = None  # to the last likes, as most requests come under one mask

    def carried(self, scores: Doubles, likes: Ints) -> Doubles:
        """(N,): what `scores` (N,) of liked items say of those that few have liked; 0 for all others."""
        return self._fitted(likes).carried(scores)

    def popularity(self, likes: Ints) -> Doubles:
        """(N,): the logarithm of 1 + likes, and for items that few have liked what their facts let one expect beside it."""
        return self._fitted(likes).popularity

    def alike(self, items: Sequence[int]) -> Doubles:
        """(N,): how much each item has in common with these, of which there is one at least: the mean cosine of categories.

        A category weighs the logarithm of how few have it. 0 for items that have none in common, 1 for those of all the same.
        """
        return np.asarray(self._categories @ self._categories[list(items)].mean(axis=0), np.float64)

    def _fitted(self, likes: Ints) -> _Fit:
        fit = self._fit
        if fit is None or fit.likes is not likes:
            self._fit = fit = _Fit(self._read, likes)
        return fit


class _Fit:
    def __init__(self, read: Floats, likes: Ints) -> None:
        self.likes = likes
        self._read = read
        self._known, self._thin = likes > 0, np.flatnonzero(likes < THIN_LIKES)
        self._of_thin = read[self._thin]
        of_known = read[self._known].astype(np.float64)
        gram = of_known.T @ of_known
        self._inverse = np.linalg.inv(gram + _RIDGE * np.eye(len(gram)))
        counted = np.log1p(likes)
        self.popularity: Doubles = counted + np.maximum(self.carried(counted), 0.0) * thinness(likes)

    def carried(self, scores: Doubles) -> Doubles:
        found = np.zeros(len(scores))
        told = np.flatnonzero(self._known & (scores != 0))
        if len(told):
            slopes = self._inverse @ (self._read[told].T @ scores[told])
            found[self._thin] = self._of_thin @ slopes.astype(np.float32)
        return found


def _categories(items: Sequence[Item]) -> Floats:
    counted = Counter(genre for item in items for genre in dict.fromkeys(item.genres))
    ranked = sorted(counted, key=lambda genre: (-counted[genre], genre))[:_CATEGORIES]
    place = {genre: number for number, genre in enumerate(ranked)}
    found = np.zeros((len(items), len(ranked)), np.float32)
    for row, item in zip(found, items, strict=True):
        row[[place[genre] for genre in item.genres if genre in place]] = 1
    return found


def _telling(categories: Floats) -> Floats:
    """The rows (N, C), weighed by how few items have each category, of length 1 or 0."""
    having = np.maximum(categories.sum(axis=0), 1.0)
    weighed = categories * np.log(max(1, len(categories)) / having)
    length = np.linalg.norm(weighed, axis=1, keepdims=True)
    return np.asarray(np.divide(weighed, length, out=np.zeros_like(weighed), where=length > 0), np.float32)


def _ages(items: Sequence[Item]) -> Floats:
    newest = max((item.year for item in items if item.year is not None and not item.created), default=0)
    ages = np.array([np.nan if item.year is None else newest - item.year for item in items], np.float64)
    parts = [np.interp(ages, _AGES, one) for one in np.eye(len(_AGES))]
    return np.nan_to_num(np.stack(parts, axis=1)).astype(np.float32)


def _directions(embeddings: Floats) -> Floats:
    """(N, at most `_DIRECTIONS`): embeddings along their principal directions, of `_LENGTH` on average."""
    if not embeddings.size:
        return np.zeros((len(embeddings), 0), np.float32)
    centered = embeddings - embeddings.mean(axis=0)
    sampled = centered[:: -(-len(centered) // _SAMPLED)]
    *_, directions = np.linalg.svd(sampled, full_matrices=False)
    along = centered @ directions[:_DIRECTIONS].T
    length = float(np.sqrt((along**2).sum(axis=1).mean()))
    return np.asarray(along * (_LENGTH / length if length else 0.0), np.float32)

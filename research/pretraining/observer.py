"""The ideal observer: what somebody who knows every public fact and how people differ would expect of a person's next answer.

Pretraining teaches the model the observer's probabilities instead of single drawn answers: their mean is the same, and they
carry no noise. The posterior of a logistic regression whose weights have a normal prior, by Laplace's method in function
space (Rasmussen and Williams 2006, algorithms 3.1 and 3.2), with MacKay's correction for the spread of the logit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from research.pretraining.simulated import (
    FloatArray,
    IntArray,
    ItemFeatures,
    Tastes,
)

_NEWTON_STEPS = 12
_LEAST_CURVATURE = 1e-9


def expected_likes(
    items: ItemFeatures, tastes: Tastes, history: IntArray, liked: NDArray[np.bool_], targets: IntArray
) -> FloatArray:
    """P(like) of each of `targets` (Q,), given the answers `liked` (n,) to the items `history` (n,)."""
    mean = tastes.mean(items.genres)
    before, after = items.values[history] @ mean, items.values[targets] @ mean
    within = _kernel(items, tastes, history, history) + np.diag(items.unexplained[history])
    across = _kernel(items, tastes, targets, history)
    logits = before.copy()
    for _ in range(_NEWTON_STEPS):
        p, curvature = _logistic(logits)
        wanted = logits - before + (liked - p) / curvature
        logits = before + within @ np.linalg.solve(within + np.diag(1.0 / curvature), wanted)
    p, curvature = _logistic(logits)
    location = after + across @ (liked - p)
    explained = across @ np.linalg.solve(within + np.diag(1.0 / curvature), across.T)
    variance = np.maximum(_variances(items, tastes, targets) - np.diag(explained), 0.0)
    likely: FloatArray = _logistic(location / np.sqrt(1.0 + np.pi / 8.0 * variance))[0]
    return likely


def with_unknown(items: ItemFeatures, tastes: Tastes) -> ItemFeatures:
    """The items and, behind them, one of which nothing is known.

    Its features are the mean of what people meet; the variance of an item's appeal about that mean is left open.
    """
    chance = items.popularity / items.popularity.sum()
    usual = chance @ items.values
    apart = items.values - usual
    mean, spread = tastes.mean(items.genres), tastes.spread(items.genres)
    left_open = chance @ ((apart @ mean) ** 2 + (apart * spread) ** 2 @ np.ones(len(mean))) + tastes.author_spread**2
    return ItemFeatures(
        values=np.vstack((items.values, usual)),
        years=np.append(items.years, 0),
        authors=np.append(items.authors, -1),
        popularity=np.append(items.popularity, 0.0),
        unexplained=np.append(items.unexplained, left_open),
    )


def _kernel(items: ItemFeatures, tastes: Tastes, rows: IntArray, columns: IntArray) -> FloatArray:
    """Covariance of the appeals of two lists of items over all people: (len(rows), len(columns))."""
    spread = tastes.spread(items.genres)
    shared: FloatArray = (items.values[rows] * spread) @ (items.values[columns] * spread).T
    if tastes.author_spread:
        by, of = items.authors[rows][:, None], items.authors[columns][None, :]
        shared = shared + tastes.author_spread**2 * ((by == of) & (by >= 0))
    return shared


def _variances(items: ItemFeatures, tastes: Tastes, rows: IntArray) -> FloatArray:
    spread = tastes.spread(items.genres)
    own: FloatArray = np.square(items.values[rows] * spread).sum(axis=1)
    return own + tastes.author_spread**2 * (items.authors[rows] >= 0) + items.unexplained[rows]


def _logistic(logits: FloatArray) -> tuple[FloatArray, FloatArray]:
    p = 1.0 / (1.0 + np.exp(-logits))
    return p, np.maximum(p * (1.0 - p), _LEAST_CURVATURE)

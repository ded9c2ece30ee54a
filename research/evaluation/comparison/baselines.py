"""Two rows that use no language model. Published LLM recommenders often lose to such rows, so they stand beside every table.

Both have the form (training samples, test samples, public facts) -> P(Yes) of each test sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from research.evaluation.comparison.facts import PublicItemFacts
from service.records import Item, Sample

RIDGE = 1.0  # of standardized features; chosen on validation samples, where 0.01 to 30 differ by less than 0.001 in AUC

_UNKNOWN = math.nan
_NEWTON_STEPS = 50
_CONVERGED = 1e-10
_ROUNDING = 1e-12  # a mean of equal values need not equal them

Floats = NDArray[np.float64]


def like_share(train: Sequence[Sample], test: Sequence[Sample], facts: PublicItemFacts) -> list[float]:
    """The share of liked items in the history; 0.5 where there is none. Nothing is trained, and the target is not read."""
    del train, facts
    return [share_of_likes(sample) for sample in test]


def logistic(train: Sequence[Sample], test: Sequence[Sample], facts: PublicItemFacts) -> list[float]:
    """Logistic regression on the few features of `features`, trained on the same samples as the adapters."""
    return Logistic.fit(train, facts).scores(test, facts)


def share_of_likes(sample: Sample) -> float:
    """0.5 for an empty history."""
    return sum(o.liked for o in sample.history) / len(sample.history) if sample.history else 0.5


def features(sample: Sample, facts: PublicItemFacts) -> list[float]:
    """What history and public facts say of the target; NaN where a fact is not known.

    Share of likes, opinions in the history, agreement of genres (mean over the history of ± the Jaccard overlap with the
    target's genres, + where liked), liked and disliked items of the target's author, the target's average public vote, log
    of its vote count, and its year.
    """
    target, seen = sample.target, max(1, len(sample.history))
    agreement = sum((1 if o.liked else -1) * _overlap(o.item, target) for o in sample.history) / seen
    same_author = [o.liked for o in sample.history if target.author and _same_author(o.item, target)]
    public = facts.get(target.item_id)
    return [
        share_of_likes(sample),
        len(sample.history),
        agreement,
        sum(same_author),
        len(same_author) - sum(same_author),
        public.vote_average if public else _UNKNOWN,
        math.log1p(public.vote_count) if public else _UNKNOWN,
        _UNKNOWN if target.year is None else target.year,
    ]


def _overlap(one: Item, other: Item) -> float:
    genres = {*one.genres, *other.genres}
    return len({*one.genres} & {*other.genres}) / len(genres) if genres else 0.0


def _same_author(one: Item, other: Item) -> bool:
    # Catalogs write the same name in capitals here and in small letters there.
    return (one.author or "").casefold() == (other.author or "").casefold()


@dataclass(frozen=True, slots=True)
class Logistic:
    """A fitted regression. F features; those that the training samples do not tell apart have weight 0.

    An unknown value counts as the training mean, and has a weight of its own for being unknown.
    """

    mean: Floats  # (F,)
    spread: Floats  # (F,)
    weights: Floats  # (1 + 2 F,): bias, standardized values, being unknown

    @classmethod
    def fit(cls, train: Sequence[Sample], facts: PublicItemFacts) -> Self:
        """Maximum likelihood with a ridge penalty on all but the bias, by Newton's method; deterministic."""
        values = _table(train, facts)
        known = ~np.isnan(values)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, values, 0.0).sum(axis=0) / count
        spread = np.sqrt(np.where(known, (values - mean) ** 2, 0.0).sum(axis=0) / count)
        spread[spread <= _ROUNDING * np.abs(mean)] = np.inf
        liked = np.array([sample.liked for sample in train], dtype=np.float64)
        return cls(mean, spread, newton(_design(values, mean, spread), liked))

    @property
    def coefficients(self) -> int:
        """How many weights training decided, the bias among them."""
        return int(np.count_nonzero(self.weights))

    def scores(self, samples: Sequence[Sample], facts: PublicItemFacts) -> list[float]:
        """P(Yes) of each sample."""
        logits = _design(_table(samples, facts), self.mean, self.spread) @ self.weights
        return [float(p) for p in _sigmoid(logits)]


def newton(design: Floats, liked: Floats) -> Floats:
    """Weights (D,) that minimize the sum of log losses over N rows of `design` (N, D) plus RIDGE/2 · |w|², the bias free.

    The first column of `design` is the bias.
    """
    penalty = np.full(design.shape[1], RIDGE)
    penalty[0] = 1e-6  # nearly free, yet finite where all training samples are liked
    weights = np.zeros(design.shape[1])
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - liked) + penalty * weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < _CONVERGED:
            break
    return weights


def _table(samples: Sequence[Sample], facts: PublicItemFacts) -> Floats:
    return np.array([features(sample, facts) for sample in samples], dtype=np.float64)


def _design(values: Floats, mean: Floats, spread: Floats) -> Floats:
    unknown = np.isnan(values)
    standardized = (np.where(unknown, mean, values) - mean) / spread
    # A fact that no training sample has cannot tell anything, nor can its absence.
    return np.hstack([np.ones((len(values), 1)), standardized, unknown & np.isfinite(spread)])


def _sigmoid(logits: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -500, 500)))

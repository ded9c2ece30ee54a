"""Paired bootstrap intervals: how sure a difference between two methods is, that were asked for the same people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

DRAWS = 2_000
_LEVEL = 0.95
_SEED = 0
_AT_ONCE = 2**22  # indices in memory


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the two ends of its 95% interval."""

    mean: float
    low: float
    high: float


def paired_interval(
    first: Doubles, second: Doubles, draws: int = DRAWS, seed: int = _SEED, at_once: int = _AT_ONCE
) -> Interval:
    """The mean over people of first − second, (P,) each, with its percentile bootstrap interval (Efron 1979).

    People are drawn with replacement, so both methods are compared on the same people in every draw. NaN for nobody.
    `at_once` bounds the indices that are in memory.
    """
    differences = first - second
    if not len(differences):
        return Interval(float("nan"), float("nan"), float("nan"))
    chance = np.random.default_rng(seed)
    step = max(1, at_once // len(differences))
    means = np.concatenate(
        [
            differences[chance.integers(0, len(differences), (min(step, draws - begun), len(differences)))].mean(axis=1)
            for begun in range(0, draws, step)
        ]
    )
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(float(differences.mean()), float(low), float(high))

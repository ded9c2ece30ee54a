"""What a peer is: a recommender of the literature that learns from training rows and scores the catalog for a history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.evaluation.ranking.knowledge import History, Knowledge

Doubles = NDArray[np.float64]
Options = Mapping[str, float]  # settings by name

FADING = "fading"  # the option that tells what a like counts of the next newer one; without order it is left out

# A history and what to vary when asking -> what speaks for every item, (N,).
Model = Callable[[History, Options], Doubles]


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to learn, and the settings among which tuning chooses.

    `fitting` are settings of learning, `asking` those that a model takes with each question: varying these learns nothing anew.
    """

    name: str
    fit: Callable[[Knowledge, Options], Model]
    fitting: tuple[Options, ...] = ({},)
    asking: tuple[Options, ...] = ({},)
    needs_order: bool = False  # it means nothing where histories have no order
    most_items: int | None = None  # of a larger catalog it would need too much memory


def best(scores: Doubles, hidden: NDArray[np.int64], count: int) -> list[int]:
    """The numbers of the `count` best items that are not hidden; ties by number."""
    shown = np.array(scores, np.float64)
    shown[hidden] = -np.inf
    order = np.argsort(-shown, kind="stable")[: min(count, len(shown) - len(np.unique(hidden)))]
    return [int(number) for number in order]


def grid(**choices: tuple[float, ...]) -> tuple[Options, ...]:
    """Every combination of the choices for each name."""
    found: list[dict[str, float]] = [{}]
    for name, values in choices.items():
        found = [{**one, name: value} for one in found for value in values]
    return tuple(found)

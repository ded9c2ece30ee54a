"""How far two models' answers are from each other, and how well each of them answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Doubles = NDArray[np.float64]


def distributions(likely: Doubles) -> Doubles:
    """P(Yes) of N rows -> (P(No), P(Yes)) of each, (N, 2)."""
    return np.stack([1.0 - likely, likely], axis=1)


def jensen_shannon(ours: Doubles, theirs: Doubles) -> float:
    """Mean Jensen-Shannon divergence of N pairs of distributions (N, 2), in nats: at most ln 2 = 0.693."""
    middle = (ours + theirs) / 2
    return float((_divergences(ours, middle) + _divergences(theirs, middle)).mean() / 2)


def euclidean(ours: Doubles, theirs: Doubles) -> float:
    """Mean L2 norm of the difference of N pairs of distributions (N, 2): at most √2."""
    return float(np.linalg.norm(ours - theirs, axis=1).mean())


def half_symmetric(ours: Tensor, theirs: Tensor) -> Tensor:
    """Half of KL(ours ‖ theirs) + KL(theirs ‖ ours) of each of B pairs of distributions given as ln P (B, V), in nats: (B,).

    The released code calls the mean of this over the whole vocabulary JSD. It is unbounded, and about four times the
    Jensen-Shannon divergence where that is small.
    """
    one, other = ours.double(), theirs.double()
    return ((one.exp() - other.exp()) * (one - other)).sum(dim=-1) / 2


def log_probabilities(logits: Tensor) -> Tensor:
    """ln softmax over the last dimension, in double precision."""
    return functional.log_softmax(logits.double(), dim=-1)


def _divergences(ours: Doubles, theirs: Doubles) -> Doubles:
    # Where ours is 0 it adds nothing, and theirs, a mean that holds it, is 0 only there.
    ratio = np.divide(ours, theirs, out=np.ones_like(ours), where=ours > 0)
    summed: Doubles = (ours * np.log(ratio)).sum(axis=1)
    return summed

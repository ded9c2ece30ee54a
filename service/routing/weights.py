"""Pure: the neighbors' errors and the mask -> the weights of the adapters, eqs. 7 and 8 of Hu et al. 2024.

Of many adapters only the m of largest weight answer (`keep_largest`). If they leave out a share ε of the weight, then
Σ |w' − w| = 2 ε, so no layer's blended output moves by more than 2 ε times the largest output of one adapter there (level ND).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_SMALLEST = np.finfo(np.float64).tiny


def mean_errors(errors: Floats, neighbors: NDArray[np.int64]) -> Doubles:
    """Eq. 7: each adapter's mean error over a request's neighbors, (B, K), from errors (V, K) and rows (B, n)."""
    if neighbors.shape[1] == 0:
        return np.zeros((len(neighbors), errors.shape[1]))
    mean: Doubles = errors[neighbors].mean(axis=1, dtype=np.float64)
    return mean


def softmax_weights(error_k: Doubles, tau: float, allowed: NDArray[np.bool_]) -> Floats:
    """Eq. 8: w = softmax(−tau · error) over the allowed adapters, (B, K) float32; exactly 0 for every other one.

    Rows sum to 1, or to 0 where no adapter is allowed.
    """
    weights = np.zeros(error_k.shape, dtype=np.float32)
    if allowed.any():
        logits = -tau * error_k[:, allowed]
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights[:, allowed] = shifted / shifted.sum(axis=1, keepdims=True)
    return weights


def keep_largest(weights: Floats, m: int) -> Floats:
    """The m largest of each row (B, K), rescaled to the sum that all of them had; exactly 0 for every other one."""
    if m >= weights.shape[1]:
        return weights
    order = np.argsort(-weights, axis=1, kind="stable")
    kept = weights.copy()
    np.put_along_axis(kept, order[:, m:], 0.0, axis=1)
    scale = weights.sum(axis=1, dtype=np.float64) / np.maximum(kept.sum(axis=1, dtype=np.float64), _SMALLEST)
    rescaled: Floats = (kept * scale[:, None]).astype(np.float32)
    return rescaled

"""APA (Hu et al. 2024): Algorithm 1's partition of samples, adaptive weights, at decomposition and non-decomposition level."""

from __future__ import annotations

from research.evaluation.comparison.aggregation import AdaptiveBlend
from research.evaluation.comparison.partitions import SEMANTIC

AT_LEVEL_D = AdaptiveBlend(SEMANTIC, "D")
AT_LEVEL_ND = AdaptiveBlend(SEMANTIC, "ND")

"""SISA (Bourtoule et al. 2021): random shards of samples, and the mean of the K predictions."""

from __future__ import annotations

from research.evaluation.comparison.aggregation import MeanOfPredictions
from research.evaluation.comparison.partitions import RANDOM

METHOD = MeanOfPredictions(RANDOM)

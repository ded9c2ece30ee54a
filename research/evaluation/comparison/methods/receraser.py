"""RecEraser (Chen et al. 2022): its user-based balanced partition, with SISA's aggregation as in the APA paper."""

from __future__ import annotations

from research.evaluation.comparison.aggregation import MeanOfPredictions
from research.evaluation.comparison.partitions import USER_BASED

METHOD = MeanOfPredictions(USER_BASED)

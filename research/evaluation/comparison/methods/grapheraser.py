"""GraphEraser (Chen et al. 2022): its balanced embedding k-means, with SISA's aggregation as in the APA paper."""

from __future__ import annotations

from research.evaluation.comparison.aggregation import MeanOfPredictions
from research.evaluation.comparison.partitions import BEKM

METHOD = MeanOfPredictions(BEKM)

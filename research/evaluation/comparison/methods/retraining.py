"""TALLRec (Bao et al. 2023): one adapter on everything, and everything again for whoever is forgotten."""

from __future__ import annotations

from research.evaluation.comparison.aggregation import MeanOfPredictions
from research.evaluation.comparison.partitions import WHOLE

METHOD = MeanOfPredictions(WHOLE, count=1)

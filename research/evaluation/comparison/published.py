"""What the papers themselves report, to be read beside our own figures.

Test AUC from "Exact and Efficient Unlearning for Large Language Model-based Recommendation" (the APA paper), all of them
measured on LLaMA-7B. A figure that is not here is not known to us, and none is shown for it.
"""

from __future__ import annotations

from collections.abc import Mapping

MODEL = "LLaMA-7B"
SPEEDUP = 3.96  # unlearning with K = 4 shards against retraining on everything
SPEEDUP_SHARDS = 4

_AUC: Mapping[str, Mapping[str, float]] = {
    "movielens-100k": {
        "retraining": 0.7428,
        "sisa": 0.7035,
        "receraser": 0.6937,
        "grapheraser": 0.6903,
        "apa-d": 0.7259,
        "apa-nd": 0.7256,
    },
    "bookcrossing": {"retraining": 0.6738, "sisa": 0.6728, "apa-nd": 0.6846},
}


def published_auc(dataset: str) -> Mapping[str, float]:
    """Method -> test AUC in the paper; empty where the paper did not use the data set."""
    return _AUC.get(dataset, {})

"""What the paper itself reports, to be read beside our own figures (Wang et al. 2024, tables 1, 2 and 5, on T5-base).

AUC, accuracy, JSD and L2 norm are in percent there. A figure that is not here is not known to us, and none is shown for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MODEL = "T5-base"


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row. AUC is a share of 1; JSD and L2 norm are in the paper's percent; None: not reported."""

    auc: float
    jsd: float | None = None
    l2: float | None = None
    seconds: float | None = None
    parameters: float | None = None


_ROWS: Mapping[str, Mapping[str, PublishedRow]] = {
    "movielens-1m": {
        "original": PublishedRow(0.7744, None, None, 9048, 2.2e8),
        "retrain": PublishedRow(0.7685, None, None, 5279, 2.2e8),
        "sisa": PublishedRow(0.7535, 2.05, 9.82, 3042, 8.9e8),
        "receraser": PublishedRow(0.7559, 2.03, 9.64, 4009, 8.9e8),
        "negkl": PublishedRow(0.7565, 3.67, 12.47, 1805, 2.2e8),
        "neggrad": PublishedRow(0.7597, 4.64, 14.13, 1940, 2.2e8),
        "bad-t": PublishedRow(0.7561, 4.35, 14.95, 1684, 2.2e8),
        "e2urec": PublishedRow(0.7634, 1.91, 9.51, 941, 1.7e6),
        "e2urec-without-fgt": PublishedRow(0.7625, 2.62),
        "e2urec-without-rem": PublishedRow(0.7575, 2.27),
    },
    "goodreads": {
        "original": PublishedRow(0.7352, None, None, 9152),
        "retrain": PublishedRow(0.7339, None, None, 5448),
        "sisa": PublishedRow(0.7219, 2.04, 8.85, 3008),
        "receraser": PublishedRow(0.7229, 1.66, 7.71, 3208),
        "negkl": PublishedRow(0.7288, 2.02, 10.01, 1866),
        "neggrad": PublishedRow(0.7285, 2.56, 10.44, 1608),
        "bad-t": PublishedRow(0.7275, 8.02, 19.09, 1753),
        "e2urec": PublishedRow(0.7341, 0.90, 6.54, 800),
        "e2urec-without-fgt": PublishedRow(0.7340, 1.25),
        "e2urec-without-rem": PublishedRow(0.7298, 0.99),
    },
}


def published_rows(dataset: str) -> Mapping[str, PublishedRow]:
    """Method -> the paper's figures; empty where the paper did not use the data set."""
    return _ROWS.get(dataset, {})

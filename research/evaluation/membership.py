"""Can one tell from the loss who was trained on? Membership inference by a threshold on the loss (Yeom et al. 2018).

A model fits what it was trained on a little better than the rest, so a small loss speaks for membership. The area under the
ROC curve goes over all thresholds: 1 means that members can always be told, 0.5 that the loss says nothing. For people who
are forgotten the right value is neither 0 nor 0.5: their windows may be easier or harder than other people's, whoever was
trained on. It is the value under a model that never saw them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from research.evaluation.metrics import auc


def membership_auc(members: Sequence[float], others: Sequence[float]) -> float:
    """The chance that a member's loss is below that of somebody who was never trained on; ties count half."""
    return auc([-loss for loss in [*members, *others]], [True] * len(members) + [False] * len(others))


def chance_error(members: int, others: int) -> float:
    """Standard error of the AUC of a guess that knows nothing, for independent losses (Mann and Whitney 1947).

    One person's windows overlap and are not independent, so the true error is larger.
    """
    return math.sqrt((members + others + 1) / (12 * members * others)) if members and others else math.nan

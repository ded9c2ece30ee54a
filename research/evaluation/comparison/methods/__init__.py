"""The compared methods by name, in the order of the table."""

from __future__ import annotations

from research.evaluation.comparison.laboratory import Method
from research.evaluation.comparison.methods import (
    apa,
    grapheraser,
    lethe,
    like_share,
    logistic,
    receraser,
    retraining,
    sisa,
)

METHODS: dict[str, Method] = {
    "retraining": retraining.METHOD,
    "sisa": sisa.METHOD,
    "receraser": receraser.METHOD,
    "grapheraser": grapheraser.METHOD,
    "apa-d": apa.AT_LEVEL_D,
    "apa-nd": apa.AT_LEVEL_ND,
    "lethe": lethe.METHOD,
    "like-share": like_share.METHOD,
    "logistic": logistic.METHOD,
}

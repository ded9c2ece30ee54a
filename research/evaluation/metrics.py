"""How good a list of scores is against what people said."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence


def auc(scores: Sequence[float], liked: Sequence[bool]) -> float:
    """Area under the ROC curve: the chance that a liked target outscores a disliked one; ties count half.

    NaN where one of the two classes is absent.
    """
    order = sorted(range(len(scores)), key=lambda n: scores[n])
    rank_sum, position = 0.0, 0
    while position < len(order):
        end = position
        while end < len(order) and scores[order[end]] == scores[order[position]]:
            end += 1
        shared_rank = (position + 1 + end) / 2
        rank_sum += shared_rank * sum(liked[n] for n in order[position:end])
        position = end
    positives = sum(liked)
    negatives = len(liked) - positives
    if not positives or not negatives:
        return math.nan
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def uauc(scores: Sequence[float], liked: Sequence[bool], users: Sequence[str]) -> float:
    """Mean over users of the AUC among their own targets, every user counting once (as CoLLM, Zhang et al. 2023, reports it).

    Users without a liked or without a disliked target are left out; NaN where no user has both.
    """
    by_user: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for score, yes, user in zip(scores, liked, users, strict=True):
        by_user[user].append((score, yes))
    areas = [auc([score for score, _ in own], [yes for _, yes in own]) for own in by_user.values()]
    defined = [area for area in areas if not math.isnan(area)]
    return sum(defined) / len(defined) if defined else math.nan


def accuracy(scores: Sequence[float], liked: Sequence[bool]) -> float:
    """Share of targets on the right side of 0.5."""
    return sum((score > 0.5) == yes for score, yes in zip(scores, liked, strict=True)) / len(scores)


def losses(scores: Sequence[float], liked: Sequence[bool]) -> list[float]:
    """−ln P(y) of each target, in nats; at most 27.6, so that one certain mistake is not infinite."""
    likely = (score if yes else 1.0 - score for score, yes in zip(scores, liked, strict=True))
    return [-math.log(max(p, 1e-12)) for p in likely]


def log_loss(scores: Sequence[float], liked: Sequence[bool]) -> float:
    """Mean of the losses, in nats."""
    return sum(losses(scores, liked)) / len(scores)

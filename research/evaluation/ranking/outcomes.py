"""Lists of all methods -> how good each is, for everybody and by groups, and how far Lethe is ahead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from research.evaluation.ranking.intervals import paired_interval
from research.evaluation.ranking.metrics import (
    Facts,
    Judged,
    groups_of_items,
    groups_of_people,
    judge,
)
from research.evaluation.ranking.results import (
    BY_HISTORY,
    BY_LIKES,
    EVERYBODY,
    Outcome,
)

Lists = Sequence[Sequence[int]]

_CUT = 10


def outcomes(lists: Mapping[str, Lists], facts: Facts, ours: str) -> Iterator[Outcome]:
    """Everybody, then by length of history (training rows), then by how many people like what was sought.

    Of a group of items only these are relevant, and only who liked one of them is asked about.
    """
    judged = {method: judge(own, facts.relevant) for method, own in lists.items()}
    yield from compared(EVERYBODY, EVERYBODY, judged, ours)
    for group, people in groups_of_people(facts.rows).items():
        yield from compared(BY_HISTORY, group, judged, ours, people)
    for group, items in groups_of_items(facts.likes).items():
        among = {method: judge(own, facts.relevant, items) for method, own in lists.items()}
        yield from compared(BY_LIKES, group, among, ours)


def compared(
    part: str, group: str, judged: Mapping[str, Judged], ours: str, people: NDArray[np.bool_] | None = None
) -> Iterator[Outcome]:
    """Each method among the tested of some `people`, beside `ours` if that is one of them. Nothing where nobody is tested."""
    for method, own in judged.items():
        asked = own.tested if people is None else own.tested & people
        if not asked.any():
            return
        ndcg = own.ndcg(_CUT)[asked]
        lead = paired_interval(judged[ours].ndcg(_CUT)[asked], ndcg) if ours in judged and method != ours else None
        yield Outcome(
            part, group, method, int(asked.sum()), float(ndcg.mean()), float(own.hit(_CUT)[asked].mean()), lead
        )

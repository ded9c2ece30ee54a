"""Deletions that are owed: what the others' answers lose while masks stand, before anything is built again.

So many people are forgotten one after another, and nothing is built; then everybody who is left is asked. Each deletion masks
whatever has seen its person: a memory, adapters, validation rows, and from the first one on the item model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from research.evaluation.ranking.contest import Contest, timed_each
from research.evaluation.ranking.lethe import BOTH, Installation
from research.evaluation.ranking.metrics import judge
from research.evaluation.ranking.outcomes import compared
from research.evaluation.ranking.protocols import keyed_hash
from research.evaluation.ranking.results import MASKED, Outcome
from research.evaluation.ranking.served import at_need

OWED = (0, 1, 4, 8, 16)  # deletions


def masked(contest: Contest) -> Iterator[Outcome]:
    """Lethe with so many deletions owed, each time over the same people, and how far it is ahead of them with none."""
    gone, asked = forgotten_and_asked(contest)
    inputs = {"split": contest.digest, "served": contest.served, "levels": list(OWED)}
    lists = contest.notebook.recall("masked", inputs, lambda: _lists(contest, gone, asked))
    relevant = [np.array(contest.numbers(contest.split.test[user]), np.int64) for user in asked]
    judged = {_name(owed): judge(own, relevant) for owed, own in zip(OWED, lists, strict=True)}
    yield from compared(MASKED, MASKED, judged, _name(0))


def forgotten_and_asked(contest: Contest) -> tuple[Sequence[str], Sequence[str]]:
    """Who is forgotten, in this order, by keyed hash of all who are known; and who of the tested is left."""
    gone = sorted(contest.knowledge.histories, key=lambda user: keyed_hash("owed", user))[: max(OWED)]
    return gone, [user for user in contest.split.people if user not in set(gone)]


def _lists(contest: Contest, gone: Sequence[str], asked: Sequence[str]) -> list[list[list[int]]]:
    with at_need(contest, contest.split) as opened:
        installation = opened()
        return [_at(contest, installation, gone, owed, asked) for owed in OWED]


def _at(
    contest: Contest, installation: Installation, gone: Sequence[str], owed: int, asked: Sequence[str]
) -> list[list[int]]:
    before = OWED[OWED.index(owed) - 1] if owed else 0
    for user in gone[before:owed]:
        installation.owe(user)
    contest.progress.phase(f"lethe: {_name(owed)}", len(asked))
    return [contest.numbers(top[BOTH]) for top, _ in timed_each(asked, installation.top, contest.progress)]


def _name(owed: int) -> str:
    return f"{owed} deletions owed" if owed != 1 else "1 deletion owed"

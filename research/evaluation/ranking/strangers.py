"""Strangers: people of whom the ledger knows nothing, asked for by histories of 0, 1, 3 and 5 rows.

A fifth of all people with enough rows is set aside whole. Each history is the newest of a person's first five rows, and
relevant is what they liked next, so that histories of all lengths are asked for the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from research.evaluation.ranking.contest import Contest, timed_each
from research.evaluation.ranking.knowledge import Knowledge, history_of
from research.evaluation.ranking.lethe import BOTH
from research.evaluation.ranking.metrics import LENGTH, judge
from research.evaluation.ranking.outcomes import compared
from research.evaluation.ranking.peers.peer import Peer, best
from research.evaluation.ranking.protocols import (
    MOST_HELD_OUT,
    HeldOut,
    Ratings,
    Rows,
    by_person,
    in_order,
    keyed_hash,
    shuffled,
)
from research.evaluation.ranking.results import STRANGERS, Outcome
from research.evaluation.ranking.rivals import tuned
from research.evaluation.ranking.served import at_need

LENGTHS = (0, 1, 3, 5)
_SHARE = 5  # one of so many people


@dataclass(frozen=True, slots=True)
class Stranger:
    """What somebody did first, at most five rows of it, and the ids of what they liked next."""

    first: Rows
    liked_next: tuple[str, ...]

    def history(self, length: int) -> Rows:
        """The newest `length` of the first rows."""
        return self.first[-length:] if length else ()


def strangers(contest: Contest, peers: Sequence[Peer]) -> Iterator[Outcome]:
    """Lethe beside the peers, for histories of every length; without anybody to set aside, nothing."""
    aside = set_aside(contest.ratings)
    if not aside:
        return
    split = replace(contest.split, train=tuple(row for row in contest.split.train if row.user_id not in aside))
    people = list(aside.values())
    inputs = {"split": split.digest, "of": contest.digest, "lengths": list(LENGTHS)}
    served = {**inputs, "served": contest.served}
    lists = {BOTH: contest.notebook.recall("strangers", served, lambda: _served(contest, split, people))}
    for peer in peers:
        options = tuned(contest, peer)
        asked = {**inputs, "peer": peer.name, "code": contest.peers_code, "options": options}
        lists[peer.name] = contest.notebook.recall(
            "strangers", asked, partial(_of_peer, contest, split, peer, options, people)
        )
    relevant = [np.array(contest.numbers(stranger.liked_next), np.int64) for stranger in people]
    for place, length in enumerate(LENGTHS):
        judged = {method: judge(own[place], relevant) for method, own in lists.items()}
        yield from compared(STRANGERS, f"{length} rows", judged, BOTH)


def set_aside(ratings: Ratings) -> dict[str, Stranger]:
    """A fifth of those who liked something after their first five rows, by user id in order."""
    found = {}
    for user, rows in sorted(by_person(ratings.rows).items()):
        if int.from_bytes(keyed_hash("stranger", user)) % _SHARE == 0:
            ordered = in_order(rows) if ratings.has_times else shuffled(rows)
            after = [row.item_id for row in ordered[max(LENGTHS) :] if row.liked]
            if after:
                found[user] = Stranger(tuple(ordered[: max(LENGTHS)]), tuple(after[:MOST_HELD_OUT]))
    return found


def _served(contest: Contest, split: HeldOut, people: Sequence[Stranger]) -> list[list[list[int]]]:
    """For each length, each stranger's list."""
    with at_need(contest, split) as opened:
        installation = opened()

        def ask(length: int, stranger: Stranger) -> list[int]:
            history = [(row.item_id, row.liked) for row in stranger.history(length)]
            return contest.numbers(installation.top_of_stranger(history))

        contest.progress.phase("lethe: strangers", len(LENGTHS) * len(people))
        return [[own for own, _ in timed_each(people, partial(ask, length), contest.progress)] for length in LENGTHS]


def _of_peer(
    contest: Contest, split: HeldOut, peer: Peer, options: Mapping[str, Any], people: Sequence[Stranger]
) -> list[list[list[int]]]:
    model = peer.fit(Knowledge.of(split), options["fitting"])
    lists = []
    for length in LENGTHS:
        histories = [history_of(stranger.history(length), contest.number) for stranger in people]
        lists.append([best(model(own, options["asking"]), own.items, LENGTH) for own in histories])
    return lists

"""New items: a fifth of the catalog of which nobody has said anything, ranked among themselves.

Of each draw all rows of its items are out of the ledger. Everybody is asked to rank those that they have no training row of,
and relevant is what they liked of their held-out rows. Counts are blind here, so what is measured is the reading of titles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from research.evaluation.ranking.contest import Contest, by_method, timed_each
from research.evaluation.ranking.lethe import BOTH, ROWS
from research.evaluation.ranking.metrics import LENGTH, judge
from research.evaluation.ranking.outcomes import compared
from research.evaluation.ranking.protocols import HeldOut, keyed_hash
from research.evaluation.ranking.results import NEW_ITEMS, Outcome
from research.evaluation.ranking.served import at_need

DRAWS = 10
RANDOM = "random"
_SHARE = 0.2  # of the catalog


def new_items(contest: Contest, draws: int) -> Iterator[Outcome]:
    """Lethe's rows beside a random order, over all draws together."""
    parts, relevant = [], []
    for draw in range(draws):
        split = without_items(contest.split, drawn(contest.split, draw))
        inputs = {"split": split.digest, "of": contest.digest, "served": contest.served, "draw": draw}
        parts.append(contest.notebook.recall("new items", inputs, partial(_ranked, contest, split, draw)))
        relevant += [np.array(contest.numbers(split.test[user]), np.int64) for user in split.people]
    judged = {method: judge(lists, relevant) for method, lists in by_method(parts).items()}
    yield from compared(NEW_ITEMS, f"{draws} draws", judged, BOTH)


def drawn(split: HeldOut, draw: int) -> frozenset[str]:
    """A fifth of the catalog, by keyed hash."""
    ids = sorted((item.item_id for item in split.items), key=lambda item_id: keyed_hash("new", str(draw), item_id))
    return frozenset(ids[: round(_SHARE * len(ids))])


def without_items(split: HeldOut, new: frozenset[str]) -> HeldOut:
    """The split before anybody met the new items: they are in the catalog, and alone in what is relevant.

    Tested are those who liked one of them later and of whom something else is known.
    """
    train = tuple(row for row in split.train if row.item_id not in new)
    known = {row.user_id for row in train}
    liked = {user: tuple(item for item in split.test[user] if item in new) for user in split.test if user in known}
    return replace(split, train=train, test={user: items for user, items in liked.items() if items})


def _ranked(contest: Contest, split: HeldOut, draw: int) -> dict[str, Any]:
    new = drawn(contest.split, draw)
    met = {user: set[str]() for user in split.people}
    for row in contest.split.train:
        if row.user_id in met and row.item_id in new:
            met[row.user_id].add(row.item_id)
    with at_need(contest, split) as opened:
        installation = opened()
        contest.progress.phase(f"lethe: new items {draw + 1}", len(split.people))
        offered = {user: sorted(new - met[user]) for user in split.people}
        asked = timed_each(split.people, lambda user: installation.ranked(user, offered[user]), contest.progress)
        each = [orders for orders, _ in asked]
    found: dict[str, Any] = {row: [_numbers(contest, orders[row]) for orders in each] for row in ROWS}
    return {**found, RANDOM: [_numbers(contest, _at_random(user, offered[user], draw)) for user in split.people]}


def _numbers(contest: Contest, names: Sequence[str]) -> list[int]:
    return contest.numbers(names[:LENGTH])


def _at_random(user: str, names: Sequence[str], draw: int) -> list[str]:
    return sorted(names, key=lambda name: keyed_hash(RANDOM, str(draw), user, name))

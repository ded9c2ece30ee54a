"""How good lists of recommendations are against what people liked afterwards. P people, lists of up to L items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Truths = NDArray[np.bool_]

LENGTH = 100  # items that everybody is asked for
CUTS = (10, 20)
_TAIL = 0.8  # share of the catalog that the tail is: its least liked items
_DISCOUNTS = 1.0 / np.log2(np.arange(2, LENGTH + 2))

HISTORY_LENGTHS = ((0, 20), (21, 50), (51, 100), (101, None))
ITEM_LIKES = ((0, 0), (1, 4), (5, 19), (20, 99), (100, None))


@dataclass(frozen=True, slots=True)
class Facts:
    """What the training rows say of the catalog (N,) and of the tested people (P,), and what each of these liked later."""

    likes: Ints  # (N,)
    people: int  # with a training row
    rows: Ints  # (P,): training rows of each tested person
    relevant: tuple[Ints, ...]  # catalog numbers, of each tested person


@dataclass(frozen=True, slots=True)
class Judged:
    """One method's lists beside what is relevant."""

    hits: Truths  # (P, LENGTH): whether the item at each place is relevant; False behind a short list
    relevant: Ints  # (P,): how many items are

    @property
    def tested(self) -> Truths:
        """(P,): who has anything relevant."""
        return self.relevant > 0

    def ndcg(self, cut: int) -> Doubles:
        """(P,): discounted hits among the first `cut`, as a share of the most that could be; 0 for nothing relevant."""
        best = np.concatenate([[1.0], np.cumsum(_DISCOUNTS)[:cut]])  # the first is for who is not tested
        return np.asarray(self.hits[:, :cut] @ _DISCOUNTS[:cut] / best[np.minimum(self.relevant, cut)], np.float64)

    def hit(self, cut: int) -> Doubles:
        """(P,): 1 where anything among the first `cut` is relevant."""
        return np.asarray(self.hits[:, :cut].any(axis=1), np.float64)

    def recall(self, cut: int) -> Doubles:
        """(P,): the share of what is relevant that stands among the first `cut`."""
        return np.asarray(self.hits[:, :cut].sum(axis=1) / np.maximum(self.relevant, 1), np.float64)

    def reciprocal_rank(self, cut: int) -> Doubles:
        """(P,): 1 / the place of the first relevant item; 0 where it is not among the first `cut`."""
        first = self.hits[:, :cut].argmax(axis=1)
        return np.asarray(self.hits[:, :cut].any(axis=1) / (first + 1.0), np.float64)


def judge(lists: Sequence[Sequence[int]], relevant: Sequence[Ints], among: Truths | None = None) -> Judged:
    """Each person's list of catalog numbers, best first, beside what is relevant to them.

    With `among` (N,) only those items can be relevant: how well a method finds a part of the catalog.
    """
    hits = np.zeros((len(lists), LENGTH), np.bool_)
    counts = np.zeros(len(lists), np.int64)
    for person, (own, wanted) in enumerate(zip(lists, relevant, strict=True)):
        sought = wanted if among is None else wanted[among[wanted]]
        counts[person] = len(sought)
        hits[person, : len(own[:LENGTH])] = np.isin(np.asarray(own[:LENGTH], np.int64), sought)
    return Judged(hits, counts)


def figures(lists: Sequence[Sequence[int]], facts: Facts) -> dict[str, float]:
    """Name -> figure, means over the tested people.

    ndcg, hr, recall and mrr at 10 and 20; recall@100, what retrieval finds; coverage@10, the share of the catalog that stands
    among anybody's first ten; novelty@10, the mean of −log2 of the share of people who like an item (bits); and
    tail_recall@20, of what is relevant among the four fifths of the catalog that fewest like.
    """
    judged = judge(lists, facts.relevant)
    tested = judged.tested
    found: dict[str, float] = {}
    for cut in CUTS:
        of = {"ndcg": judged.ndcg, "hr": judged.hit, "recall": judged.recall, "mrr": judged.reciprocal_rank}
        found |= {f"{name}@{cut}": _mean(measure(cut)[tested]) for name, measure in of.items()}
    tail = judge(lists, facts.relevant, tail_of(facts.likes))
    return {
        **found,
        "recall@100": _mean(judged.recall(LENGTH)[tested]),
        "coverage@10": len({item for own in lists for item in own[:10]}) / len(facts.likes),
        "novelty@10": _novelty(lists, facts),
        "tail_recall@20": _mean(tail.recall(20)[tail.tested]),
    }


def tail_of(likes: Ints) -> Truths:
    """(N,): whether an item is among the four fifths of the catalog that fewest like; ties by number."""
    order = np.argsort(likes, kind="stable")
    tail = np.zeros(len(likes), np.bool_)
    tail[order[: int(_TAIL * len(likes))]] = True
    return tail


def groups_of_people(rows: Ints) -> dict[str, Truths]:
    """Name -> (P,): who has so many training rows. Groups of nobody are left out."""
    return _groups(rows, HISTORY_LENGTHS, "rows")


def groups_of_items(likes: Ints) -> dict[str, Truths]:
    """Name -> (N,): which items so many people like. Groups of nothing are left out."""
    return _groups(likes, ITEM_LIKES, "likes")


def _groups(counts: Ints, bounds: Sequence[tuple[int, int | None]], what: str) -> dict[str, Truths]:
    found = {}
    for least, most in bounds:
        inside = (counts >= least) & (counts <= (counts.max(initial=0) if most is None else most))
        name = f"{least}+" if most is None else str(least) if least == most else f"{least}–{most}"
        if inside.any():
            found[f"{name} {what}"] = inside
    return found


def _novelty(lists: Sequence[Sequence[int]], facts: Facts) -> float:
    # An item that nobody likes counts as if one person did.
    bits = -np.log2(np.maximum(facts.likes, 1) / max(1, facts.people))
    return _mean(np.array([bits[list(own[:10])].mean() for own in lists if len(own)]))


def _mean(values: Doubles) -> float:
    return float(values.mean()) if len(values) else float("nan")

"""Training rows as numbers: what peers learn from, and what they are asked about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.evaluation.ranking.metrics import Facts
from research.evaluation.ranking.protocols import HeldOut, by_person, in_order
from service.records import Interaction

Ints = NDArray[np.int64]
Truths = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class History:
    """A person's rows, oldest first: catalog numbers, and whether each item was liked."""

    items: Ints
    liked: Truths

    @property
    def likes(self) -> Ints:
        """The liked items, oldest first."""
        return self.items[self.liked]


NOBODY = History(np.empty(0, np.int64), np.empty(0, np.bool_))


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The histories of everybody with a training row, by user id, over a catalog of so many items."""

    items: int
    histories: Mapping[str, History]
    ordered: bool  # whether there are times, so that a history's order says something

    @classmethod
    def of(cls, split: HeldOut) -> Knowledge:
        """All that may be learned from a split."""
        number = numbers_of(split)
        people = by_person(split.train)
        histories = {user: history_of(in_order(rows), number) for user, rows in people.items()}
        return cls(len(split.items), histories, split.has_times)

    def without(self, users: Iterable[str]) -> Knowledge:
        """All but what some people did."""
        gone = set(users)
        kept = {user: history for user, history in self.histories.items() if user not in gone}
        return Knowledge(self.items, kept, self.ordered)

    def history(self, user: str) -> History:
        """What is known of a person; nothing of a stranger."""
        return self.histories.get(user, NOBODY)

    @property
    def counts(self) -> Ints:
        """(N,): how many people like each item."""
        likes = [history.likes for history in self.histories.values()]
        return np.bincount(np.concatenate([np.empty(0, np.int64), *likes]), minlength=self.items)

    def pairs(self) -> tuple[Ints, Ints]:
        """Every like as a person's number and an item's, (M,) each; people are numbered in order of appearance."""
        likes = [history.likes for history in self.histories.values()]
        people = [np.full(len(own), number, np.int64) for number, own in enumerate(likes)]
        return np.concatenate([np.empty(0, np.int64), *people]), np.concatenate([np.empty(0, np.int64), *likes])


def numbers_of(split: HeldOut) -> dict[str, int]:
    """Item id -> its number in the catalog."""
    return {item.item_id: number for number, item in enumerate(split.items)}


def history_of(rows: Sequence[Interaction], number: Mapping[str, int]) -> History:
    """The rows in numbers, in the order given."""
    items = np.array([number[row.item_id] for row in rows], np.int64)
    return History(items, np.array([row.liked for row in rows], np.bool_))


def facts_of(split: HeldOut, knowledge: Knowledge) -> Facts:
    """What figures need to know of a split, for its tested people in their order."""
    number = numbers_of(split)
    relevant = [np.array([number[item_id] for item_id in split.test[user]], np.int64) for user in split.people]
    rows = np.array([len(knowledge.history(user).items) for user in split.people], np.int64)
    return Facts(knowledge.counts, len(knowledge.histories), rows, tuple(relevant))

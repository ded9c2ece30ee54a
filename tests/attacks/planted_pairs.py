"""Plant pairs of items that one person alone has in common, and look for them: python -m tests.attacks.planted_pairs FOLDER

FOLDER holds files of MovieLens. The order is that of `POST /recommend`, counts, item model and facts, without a language model.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from service.data import importers
from service.memory.content import Content, facts_of
from service.memory.counting import count_people
from service.memory.item_model import ItemModel, gram, modeled_items, solve
from service.memory.live import LiveCounts, Memory, Source
from service.memory.retrieval import Taste
from service.records import Interaction, Item
from service.scoring.ranking import reasons
from tests.attacks.target import Figures

_TOP = 10
_WITH_FEW = range(1, 20)  # likes of an item that somebody can be recognized by
_LEAST = (1, 2, 3)  # LETHE_MIN_PEOPLE
_KNOWN = (1, 2, 3)  # items of a history that an attacker asks with


class Order:
    """What is recommended to somebody with a history, best first."""

    def __init__(self, people: Sequence[Sequence[Interaction]], items: Sequence[Item], least: int) -> None:
        counts = count_people(people)
        self._live = Memory.of(Source(("all",), lambda _: counts, least), [item.item_id for item in items]).without()
        self._model = _item_model(self._live)
        self._content = Content(facts_of(items), np.zeros((len(items), 0), np.float32))

    def first(self, history: Sequence[int]) -> set[int]:
        """The first ten items, by their numbers."""
        taste = Taste(tuple(history), (True,) * len(history))
        value = reasons(self._live, taste, self._model, self._content).value
        value[list(history)] = -np.inf
        return set(np.argsort(-value, kind="stable")[:_TOP].tolist())


def planted_pairs(folder: Path, pairs: int, seed: int = 0) -> Figures:
    """How many planted items are recommended to whoever names the other one, and were not before; by LETHE_MIN_PEOPLE."""
    found = importers.movielens(folder)
    histories: dict[str, list[Interaction]] = {}
    for row in sorted(found.interactions, key=lambda row: row.timestamp):
        histories.setdefault(row.user_id, []).append(row)
    number = {item.item_id: n for n, item in enumerate(found.items)}
    real = list(histories.values())
    planted = list(_planted(real, [item.item_id for item in found.items], pairs, random.Random(seed)))
    figures: Figures = {"pairs": pairs}
    for least in _LEAST:
        before, after = (Order(people, found.items, least) for people in (real, real + planted))
        for known in _KNOWN:
            asked = [[number[row.item_id] for row in rows] for rows in planted]
            recovered = sum(
                own[-1] in after.first(own[-1 - known : -1]) - before.first(own[-1 - known : -1]) for own in asked
            )
            figures[f"min_people {least}, {known} known"] = recovered
    return figures


def _planted(
    real: Sequence[Sequence[Interaction]], items: Sequence[str], pairs: int, draw: random.Random
) -> Iterator[list[Interaction]]:
    """People who like four items each, of which nobody else has liked any two."""
    likers: dict[str, set[int]] = {item: set() for item in items}
    for person, rows in enumerate(real):
        for row in rows:
            likers[row.item_id].add(person)
    rare = [item for item in items if len(likers[item]) in _WITH_FEW]
    for own in range(pairs):
        chosen: list[str] = []
        while len(chosen) <= max(_KNOWN):
            item = draw.choice(rare)
            if item not in chosen and not any(likers[item] & likers[other] for other in chosen):
                chosen.append(item)
        for item in chosen:
            likers[item].add(len(real) + own)
        yield [Interaction(f"planted-{own}", item, True, 2_000_000_000 + n) for n, item in enumerate(chosen)]


def _item_model(live: LiveCounts) -> ItemModel:
    items = modeled_items(live)
    return ItemModel(items, solve(gram(live, items)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=planted_pairs.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=200)
    given = parser.parse_args()
    print(json.dumps({"planted_pairs": planted_pairs(given.folder, given.pairs)}))

"""How far a title can be worded up: a greedy suffix, found by scores alone, as any caller of `POST /recommend` can find it.

Each case is somebody's history, a title that the catalog does not know, and candidates of the catalog. The attacker tries some
words behind the title, keeps the one that scores best, and goes on with that. Places are told as they would be by the score
alone, and as they are answered.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from research.benchmarks.report import Goal, Section, goals_of
from service.building.progress import Progress
from service.entrypoints.http.schemas import LONGEST_TEXT

WORDS_OF_A_STEP = 60
STEPS = 12  # times the words: 720 scorings

Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]  # a body of `POST /recommend` -> its answer


@dataclass(frozen=True, slots=True)
class Case:
    """Whose history, which title, among what. `known` are ids of the catalog."""

    user_id: str
    title: str
    known: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a title stands among all candidates, 1 being the best."""

    by_score: int  # where the score alone would put it
    answered: int  # by the default order of named candidates
    by_model: int  # with `rank_by: model`


class Attack:
    """A black box: it asks, and reads answers. `words` are what it tries, and it tries others at each step."""

    def __init__(
        self, ask: Ask, words: Sequence[str], seed: int, steps: int = STEPS, tried: int = WORDS_OF_A_STEP
    ) -> None:
        self._ask = ask
        self._words = words
        self._random = random.Random(seed)
        self._steps, self._tried = steps, tried

    def worded(self, case: Case) -> str:
        """The title with the best suffix that was found."""
        title, best = case.title, self._scores(case.user_id, [case.title])[case.title]
        for _ in range(self._steps):
            words = self._random.sample(self._words, min(self._tried, len(self._words)))
            longer = [tried for word in words if len(tried := f"{title} {word}") <= LONGEST_TEXT]
            if not longer:
                break
            found = self._scores(case.user_id, longer)
            first = max(found, key=lambda one: found[one])
            if found[first] > best:
                title, best = first, found[first]
        return title

    def places(self, case: Case, title: str) -> Places:
        """Where the title stands among the case's candidates."""
        items = self._order(case, title, "score")
        own = next(item for item in items if item["item_id"] is None)
        by_score = 1 + sum(item["score"] > own["score"] for item in items)
        model = next(item["rank"] for item in self._order(case, title, "model") if item["item_id"] is None)
        return Places(by_score, own["rank"], model)

    def _order(self, case: Case, title: str, rank_by: str) -> Sequence[Mapping[str, Any]]:
        candidates = [*({"item_id": one} for one in case.known), {"title": title}]
        asked = {"user_id": case.user_id, "candidates": candidates, "top_k": len(candidates), "rank_by": rank_by}
        items: Sequence[Mapping[str, Any]] = self._ask(asked)["items"]
        return items

    def _scores(self, user_id: str, titles: Sequence[str]) -> dict[str, float]:
        asked = {"user_id": user_id, "candidates": [{"title": one} for one in titles], "top_k": len(titles)}
        return {item["title"]: item["score"] for item in self._ask(asked)["items"]}


def measure(attack: Attack, cases: Sequence[Case], progress: Progress) -> list[Section]:
    """Places of every case's title before and after the attack, and whether the median title was kept down."""
    before, after = [], []
    progress.phase("titles", len(cases))
    for case in cases:
        before.append(attack.places(case, case.title))
        after.append(attack.places(case, attack.worded(case)))
        progress.advance(1)
    of = len(cases[0].known) + 1
    rows = tuple(
        {"title": told, **_row(places)} for told, places in (("as it is", before), ("with the best suffix", after))
    )
    found = median(one.answered for one in after)
    note = f"median places of {len(cases)} titles outside the catalog, among {of} candidates; 1 is the best"
    return [
        Section("titles that buy rank", rows, (note,)),
        goals_of([Goal(f"the median attacked title's place, of {of}", 50 * of / 99, found)]),
    ]


def _row(places: Sequence[Places]) -> dict[str, Any]:
    return {
        "by score alone": median(one.by_score for one in places),
        "best": min(one.by_score for one in places),
        "answered": median(one.answered for one in places),
        "best answered": min(one.answered for one in places),
        "by model": median(one.by_model for one in places),
        "best by model": min(one.by_model for one in places),
    }

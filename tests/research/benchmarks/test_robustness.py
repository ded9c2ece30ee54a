"""The attack on a title's place, tried on a scorer that likes a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.benchmarks.robustness import Attack, Case, measure
from service.building.progress import Silent

CASE = Case("somebody", "Dull", tuple(str(number) for number in range(98)))
WORDS = ("bad", "good", "plain")


class Scorer:
    """Likes a title the more, the more often it says `good`; `bounded` keeps titles outside the catalog down."""

    def __init__(self, bounded: bool) -> None:
        self.bounded, self.scored = bounded, 0

    def __call__(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        items = [self._item(named) for named in body["candidates"]]
        self.scored += len(items)
        outside = self.bounded and any(item["item_id"] for item in items)
        items.sort(key=lambda item: (outside and item["item_id"] is None, -item["score"]))
        return {"items": [{**item, "rank": rank} for rank, item in enumerate(items, 1)]}

    def _item(self, named: Mapping[str, str]) -> dict[str, Any]:
        if "item_id" in named:
            return {"item_id": named["item_id"], "title": "", "score": 0.2 + int(named["item_id"]) / 1000}
        title = named["title"]
        return {"item_id": None, "title": title, "score": 0.1 + title.count("good") - title.count("bad")}


def test_the_suffix_grows_by_the_word_that_scores_best() -> None:
    assert Attack(Scorer(False), WORDS, 0, steps=3, tried=3).worded(CASE) == "Dull good good good"


def test_no_more_is_scored_than_the_steps_allow() -> None:
    scorer = Scorer(False)
    Attack(scorer, [str(number) for number in range(500)], 0).worded(CASE)
    assert scorer.scored == 720 + 1  # and the title as it is


def test_places_tell_what_the_score_would_do_and_what_is_answered() -> None:
    places, goals = measure(Attack(Scorer(True), WORDS, 0, steps=2, tried=3), [CASE], Silent())
    before, after = places.rows
    assert (before["by score alone"], after["by score alone"]) == (99, 1)
    assert after["answered"] == 99
    assert goals.rows[0]["met"] == "yes"

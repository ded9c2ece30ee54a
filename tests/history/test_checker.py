"""A checker that cannot fail is worth nothing: each rule has a history that breaks it, and one that just keeps it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from .checker import Completed, Forgotten, Hidden, History, Recommended, check

# The story: at 1 to 2 somebody is forgotten, and at 5 the receipt says that g2 has replaced g1.
FORGOTTEN = Forgotten(
    1, 2, "A", 202, "ann", True, "f1", 7, frozenset({"saw her"}), frozenset({"her row"}), frozenset({"counts her"})
)
COMPLETED = Completed(5, "f1", "g1", "g2")


def answer(begin: float, end: float, **given: Any) -> Recommended:
    clean = {"user_id": "bob", "fence": 7, "generation": "g1", "weights": {"saw her": 0.0, "other": 1.0}}
    return Recommended(**{"begin": begin, "end": end, "replica": "B", "status": 200, **clean, **given})


def history(*answers: Recommended, forgotten: Forgotten = FORGOTTEN, completed: Iterable[Completed] = ()) -> History:
    return History(answers, (forgotten,), tuple(completed))


def rules(told: History) -> list[str]:
    return [violation.rule for violation in check(told)]


CLEAN = history(
    answer(0.0, 0.9, fence=6, user_id="ann", weights={"saw her": 0.4}, neighbors=("her row", "row")),
    answer(1.2, 1.8, status=404, user_id="ann"),
    answer(2.1, 2.5),
    answer(2.1, 2.5, status=404, user_id="ann"),
    answer(2.2, 2.6, user_id=None, neighbors=("row",)),
    answer(0.5, 2.5, item_model=True, memories=("counts her", "other")),
    answer(3.0, 3.5, status=503),
    answer(3.1, 5.5, generation="g2", weights={"new": 1.0}),
    answer(4.9, 5.9),
    answer(5.1, 5.9, fence=8, generation="g2", weights={"new": 1.0}, item_model=True, memories=("new",)),
    completed=[COMPLETED],
)


def test_a_history_that_keeps_every_promise_is_clean() -> None:
    assert check(CLEAN) == []


BROKEN: dict[str, dict[str, Any]] = {
    "fence": {"fence": 6},
    "adapter": {"weights": {"saw her": 1e-30, "other": 1.0}},
    "row": {"neighbors": ("row", "her row")},
    "memory": {"memories": ("other", "counts her")},
    "person": {"user_id": "ann"},
}


@pytest.mark.parametrize("rule", BROKEN)
@pytest.mark.parametrize("replica", ["A", "B"])
def test_what_an_acknowledged_deletion_forbids_is_caught_on_any_replica(rule: str, replica: str) -> None:
    assert rules(history(answer(2.1, 3.0, replica=replica, **BROKEN[rule]))) == [rule]


@pytest.mark.parametrize("rule", [rule for rule in BROKEN if rule != "fence"])
def test_a_restriction_forbids_what_a_deletion_does(rule: str) -> None:
    restricted = replace(FORGOTTEN, status=200, restricts=True, request_id="", fence=0)
    assert rules(history(answer(2.1, 3.0, **BROKEN[rule]), forgotten=restricted)) == [rule]
    assert rules(history(answer(2.1, 3.0, status=404, user_id="ann"), forgotten=restricted)) == []
    assert rules(history(forgotten=replace(restricted, status=202))) == ["status"]


@pytest.mark.parametrize("rule", BROKEN)
@pytest.mark.parametrize(("begin", "end"), [(0.1, 0.2), (0.5, 9.0), (2.0, 3.0)])
def test_an_answer_that_was_not_begun_later_proves_nothing(rule: str, begin: float, end: float) -> None:
    assert rules(history(answer(begin, end, **BROKEN[rule]))) == []


@pytest.mark.parametrize("rule", BROKEN)
def test_a_deletion_that_was_refused_forbids_nothing(rule: str) -> None:
    refused = replace(FORGOTTEN, status=503)
    assert rules(history(answer(2.1, 3.0, **BROKEN[rule]), forgotten=refused)) == []


def test_everything_is_forbidden_for_good() -> None:
    every = {name: value for broken in BROKEN.values() for name, value in broken.items()}
    assert rules(history(answer(1e6, 2e6, **every))) == list(BROKEN)


def test_an_item_model_that_has_seen_somebody_is_caught_however_late_its_answer() -> None:
    late = answer(2.1, 3.0, item_model=True)
    assert rules(history(late, completed=[COMPLETED])) == ["item model"]
    assert rules(history(replace(late, begin=1.9), completed=[COMPLETED])) == []
    assert rules(history(replace(late, generation="g2", weights={}), completed=[COMPLETED])) == []


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_zero_is_caught_even_if_it_is_not_above_it(weight: float) -> None:
    assert rules(history(answer(2.1, 3.0, weights={"saw her": weight}))) == ["adapter"]


def test_the_highest_fence_counts_when_acknowledgements_overtake_each_other() -> None:
    later = replace(FORGOTTEN, end=1.5, fence=8, user_id="cid", request_id="f2")
    told = History((answer(2.1, 3.0, fence=7),), (FORGOTTEN, later))
    assert rules(told) == ["fence"]


def test_somebody_of_whom_single_interactions_were_forgotten_is_still_ranked_for() -> None:
    some = replace(FORGOTTEN, whole=False)
    assert rules(history(answer(2.1, 3.0, user_id="ann"), forgotten=some)) == []
    assert rules(history(answer(2.1, 3.0, weights={"saw her": 1.0}), forgotten=some)) == ["adapter"]


# Statuses


@pytest.mark.parametrize("status", [0, 201, 400, 404, 422, 500, 502])
def test_an_answer_that_should_not_exist_is_caught(status: int) -> None:
    assert rules(history(answer(2.1, 3.0, status=status))) == ["status"]


def test_only_somebody_whose_deletion_was_asked_for_may_be_unknown() -> None:
    unknown = answer(0.5, 1.0, status=404, user_id="ann")
    assert rules(history(unknown)) == ["status"]
    assert rules(history(replace(unknown, end=1.1))) == []
    assert rules(history(replace(unknown, end=1.1), forgotten=replace(FORGOTTEN, whole=False))) == ["status"]
    assert rules(history(replace(unknown, begin=3.0, end=4.0, user_id=None))) == ["status"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_no_violation_whatever_it_was_asked(status: int) -> None:
    refused = answer(2.1, 3.0, status=status, user_id="ann", fence=0, generation="")
    assert rules(history(refused, completed=[COMPLETED])) == []


@pytest.mark.parametrize(("status", "found"), [(202, []), (429, []), (503, []), (200, ["status"]), (500, ["status"])])
def test_a_deletion_is_accepted_or_refused_and_nothing_else(status: int, found: list[str]) -> None:
    assert rules(history(forgotten=replace(FORGOTTEN, status=status))) == found


# Generations


def test_a_generation_that_comes_back_is_caught() -> None:
    back = [answer(2.1, 2.2), answer(2.3, 2.4, generation="g2"), answer(2.5, 2.6)]
    assert rules(history(*back)) == ["generation"]
    assert rules(history(*back[:2])) == []


def test_two_replicas_that_change_over_at_once_may_answer_in_any_order() -> None:
    both = [answer(2.1, 3.0), answer(2.2, 2.9, generation="g2"), answer(2.8, 3.2), answer(2.3, 3.1, generation="g2")]
    assert rules(history(*both)) == []


def test_a_generation_that_one_replica_still_shows_after_another_has_left_it_behind_is_caught() -> None:
    first, second = answer(2.1, 2.2, replica="A"), answer(2.3, 2.4, replica="A", generation="g2")
    assert rules(history(first, second, answer(2.5, 2.6, replica="B"))) == ["generation"]


def test_the_generation_before_a_receipt_is_not_shown_after_it() -> None:
    stale = answer(5.1, 5.2)
    assert rules(history(stale, completed=[COMPLETED])) == ["generation"]
    assert rules(history(replace(stale, begin=5.0), completed=[COMPLETED])) == []


def test_a_receipt_that_changed_nothing_forbids_nothing() -> None:
    assert rules(history(answer(5.1, 5.2), completed=[replace(COMPLETED, after="g1")])) == []


def test_a_generation_older_than_the_one_before_a_receipt_is_not_shown_after_it() -> None:
    seen = [answer(2.1, 2.2, generation="g0"), answer(2.3, 2.4), answer(2.5, 2.6, generation="g2")]
    assert rules(history(*seen, completed=[COMPLETED])) == []
    assert rules(history(*seen, answer(5.1, 5.2, generation="g0"), completed=[COMPLETED])) == ["generation"] * 2


@pytest.mark.parametrize("replica", ["A", "B"])
def test_an_item_that_was_hidden_before_the_question_came_is_caught_on_any_replica(replica: str) -> None:
    def told(begin: float, status: int = 200) -> History:
        seen = answer(begin, 9.0, replica=replica, items=("film1", "film2"))
        return History((seen,), hidden=(Hidden(1, 2, "A", status, "film2"),))

    assert rules(told(2.1)) == ["hidden item"]
    assert rules(told(1.9)) == []
    assert rules(told(2.1, status=503)) == []
    assert rules(told(2.1, status=500)) == ["status"]

"""A short history of two real replicas, checked; `python -m tests.history.load` makes a long one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.forks import Forks

from .checker import ACCEPTED, OK, History, check
from .conftest import PEOPLE, Populated
from .load import perform, report
from .visitors import Plan

pytestmark = pytest.mark.thorough
PLAN = Plan(operations=1_200, clients=8, seed=3, forget_every=30, pause=0.02)


@pytest.fixture(scope="module")
def history(populated: Populated, forks: Forks) -> History:
    assert PLAN.people <= PEOPLE
    outcome = perform(populated.installation, populated.rated, PLAN, forks.begin)
    print(report(outcome))
    return outcome.history


def test_no_answer_begun_after_an_acknowledgement_breaks_a_promise(history: History) -> None:
    assert check(history) == []


def test_the_history_has_substance(history: History) -> None:
    answers = [answer for answer in history.recommended if answer.status == OK]
    accepted = [wish for wish in history.forgotten if wish.status == ACCEPTED]
    assert len(history.recommended) + len(history.forgotten) >= PLAN.operations
    assert {answer.replica for answer in answers} == {wish.replica for wish in accepted} == {"A", "B"}
    assert len({answer.generation for answer in answers}) >= 2
    assert len(accepted) >= 25
    assert {wish.whole for wish in accepted} == {True, False}
    assert sum(wish.restricts and wish.acknowledged for wish in history.forgotten) >= 3
    assert len(history.completed) == len(accepted)
    assert sum(one.status == OK for one in history.hidden) >= 10
    assert {one.replica for one in history.hidden} == {"A", "B"}


def test_every_rule_would_have_caught_these_answers_had_the_acknowledgements_come_earlier(history: History) -> None:
    early = [replace(wish, begin=-2.0, end=-1.0) for wish in history.forgotten]
    receipts = [replace(done, end=-1.0) for done in history.completed]
    hidden = tuple(replace(one, begin=-2.0, end=-1.0) for one in history.hidden)
    found = check(replace(history, forgotten=tuple(early), completed=tuple(receipts), hidden=hidden))
    rules = {"fence", "adapter", "row", "memory", "person", "item model", "generation", "hidden item"}
    assert {violation.rule for violation in found} == rules

"""A short fuzzing of a real server; `make fuzz` is a long one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.forks import Forks

from .contract import Outcome, explore
from .house import House, installed, keys_of, opened
from .runner import documented, judge_of, leaks, mutate, report
from .verdict import Judge
from .wire import Answered, Asked

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_models: Callable[..., Path], forks: Forks) -> Iterator[House]:
    installation = installed(tmp_path_factory.mktemp("fuzz"), tiny_models("llama"), forks)
    with opened(installation, keys_of(installation)) as running:
        yield running


@pytest.fixture(scope="module")
def judge(house: House) -> Judge:
    return judge_of(house)


def test_no_mutation_of_a_request_breaks_a_promise(house: House, judge: Judge) -> None:
    tally = mutate(house, judge, documented(house), 1_000, seed=7)
    assert tally.cases.total() == 1_000
    assert tally.faults == [], report(Outcome(), tally, (), 1)
    assert {200, 202, 400, 401, 403, 404, 405, 413, 415, 422} <= tally.statuses.keys()


def test_the_contract_holds_for_what_is_generated_from_it(house: House, judge: Judge) -> None:
    explored = explore(house, judge, examples=3, seed=7, covering=False)
    assert explored.failures == {}
    assert explored.errors == []
    assert {"examples", "fuzzing", "stateful_testing"} <= explored.cases.keys()


def test_nobody_is_in_the_log_or_in_the_metrics(house: House, judge: Judge) -> None:
    assert house.installation.log.stat().st_size > 10_000
    assert leaks(house, judge) == []


def test_the_judge_sees_what_is_wrong(house: House, judge: Judge) -> None:
    asked = Asked("GET", b"/healthz", template="/healthz")
    plain = {"content-type": "application/json"}
    wrong = [
        Answered(500, {"content-type": "application/problem+json"}, b"{}"),
        Answered(503, {"content-type": "application/problem+json"}, b"{}"),  # it does not say when to come again
        Answered(200, plain, b'{"status": 7}'),
        Answered(200, {"content-type": "text/html"}, b"ok"),
        Answered(204, {}, b""),
        Answered(0, {}, b""),
        Answered(404, {"x-said": house.secrets()[1]}, b""),
    ]
    assert all(judge.faults(asked, answer) for answer in wrong)
    assert judge.faults(asked, Answered(200, plain, b'{"status": "ok"}')) == []

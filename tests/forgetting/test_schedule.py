"""Full builds by amount and by time."""

from __future__ import annotations

import pytest

from service.forgetting.schedule import BuildSchedule


class Waiting:
    """A ledger beyond whose horizon so many rows lie."""

    def __init__(self, rows: int) -> None:
        self.rows, self.asked = rows, 0

    def beyond_horizon(self) -> int:
        self.asked += 1
        return self.rows


class Hand:
    """Of a clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_schedule_no_build_is_due_and_nobody_is_asked() -> None:
    ledger = Waiting(10**6)
    assert not BuildSchedule().is_due(ledger)
    assert ledger.asked == 0


@pytest.mark.parametrize(("rows", "due"), [(0, False), (99, False), (100, True)])
def test_by_amount(rows: int, due: bool) -> None:
    assert BuildSchedule(after=100).is_due(Waiting(rows)) is due


def test_by_time_since_the_last_full_build_and_never_for_nothing() -> None:
    hand = Hand()
    schedule = BuildSchedule(every=60, clock=hand)
    assert not schedule.is_due(Waiting(1))
    hand.now += 60
    assert not schedule.is_due(Waiting(0))
    assert schedule.is_due(Waiting(1))
    schedule.note()
    assert not schedule.is_due(Waiting(1))

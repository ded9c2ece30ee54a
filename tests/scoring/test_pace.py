from __future__ import annotations

import pytest

from service.scoring.throughput import Pace


def test_nothing_takes_time_before_a_batch_was_seen() -> None:
    assert Pace().seconds(1_000) == 0.0


def test_time_grows_with_tokens() -> None:
    pace = Pace()
    pace.learn(tokens=100, seconds=0.5)
    assert [pace.seconds(tokens) for tokens in (0, 1, 40)] == pytest.approx([0.0, 0.005, 0.2])


def test_batches_that_took_unusually_long_change_nothing() -> None:
    pace = Pace()
    for seconds in (1.0, 60.0, 1.1, 30.0):
        pace.learn(tokens=100, seconds=seconds)
    assert pace.seconds(100) == pytest.approx(1.0)


def test_a_pace_that_lasts_is_followed() -> None:
    pace = Pace()
    for seconds in [1.0] * 50 + [3.0] * 9:
        pace.learn(tokens=10, seconds=seconds)
    assert pace.seconds(10) == pytest.approx(3.0)

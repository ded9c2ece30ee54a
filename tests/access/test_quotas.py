"""Token buckets: what may be taken a minute, in this process and in a real Redis."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.doorkeeper import _network
from service.access.quotas import Buckets, LocalBuckets
from service.access.shared_buckets import open_buckets
from service.errors import InvalidSetting


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    limit=st.integers(1, 100),
    steps=st.lists(st.tuples(st.floats(0, 90), st.integers(0, 250)), max_size=50),
)
def test_no_more_is_granted_than_a_full_bucket_and_what_came_since(limit: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    buckets, granted = LocalBuckets(clock), 0
    for pause, cost in steps:
        clock.now += pause
        level = buckets.take("a", limit, cost)
        granted += cost if level.granted else 0
        # One request that costs more than there is at all is granted once the bucket is full: that much debt there may be.
        debt = max((cost for _, cost in steps), default=0)
        assert granted <= limit + clock.now * limit / 60 + max(0, debt - limit) + 1e-6


def test_whoever_comes_back_when_told_to_is_let_in() -> None:
    clock = Clock()
    buckets = LocalBuckets(clock)
    assert all(buckets.take("a", 16, 1).granted for _ in range(16))
    refused = buckets.take("a", 16, 1)
    assert (refused.granted, refused.retry_after) == (False, 4)
    clock.now += refused.retry_after
    assert buckets.take("a", 16, 1).granted


def test_buckets_are_apart_and_the_oldest_is_forgotten() -> None:
    buckets = LocalBuckets(Clock(), most=2)
    assert buckets.take("a", 1, 1).granted
    assert not buckets.take("a", 1, 1).granted
    assert buckets.take("b", 1, 1).granted
    assert buckets.take("c", 1, 1).granted  # forgets a
    assert buckets.take("a", 1, 1).granted


def test_replicas_share_what_is_in_redis(redis_url: str) -> None:
    replicas = [open_buckets(redis_url) for _ in range(2)]
    name = "test:shared"
    with ThreadPoolExecutor(8) as threads:
        asked = list(threads.map(lambda n: replicas[n % 2].take(name, 10, 1).granted, range(40)))
    assert asked.count(True) == 10
    refused = replicas[0].take(name, 10, 1)
    assert 1 <= refused.retry_after <= 6
    assert replicas[1].take("test:other", 10, 4).left == pytest.approx(6, abs=0.5)


def test_redis_and_this_process_count_alike(redis_url: str) -> None:
    def taken(buckets: Buckets) -> list[bool]:
        return [buckets.take("test:alike", 60, cost).granted for cost in (20, 100, 40, 1, 60, 1)]

    assert taken(open_buckets(redis_url)) == taken(open_buckets(None)) == [True, False, True, False, False, False]


def test_while_redis_is_away_there_are_quotas_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    buckets = open_buckets("redis://127.0.0.1:1/0")  # nothing listens there
    assert [buckets.take("a", 3, 1).granted for _ in range(5)] == [True] * 3 + [False] * 2
    assert caplog.messages == ["quotas_in_process"]


def test_what_is_no_url_of_redis_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="LETHE_REDIS_URL"):
        open_buckets("http://localhost")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        (None, "unknown"),
        ("testclient", "unknown"),
    ],
)
def test_an_address_stands_for_what_one_subscriber_has(address: str | None, network: str) -> None:
    assert _network(address) == network

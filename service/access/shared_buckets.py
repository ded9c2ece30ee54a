"""Buckets that all replicas share, in Redis. While Redis is away each process has its own, never none."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from service.access.quotas import Buckets, Level, LocalBuckets
from service.errors import InvalidSetting

_ANSWER_SECONDS = 0.25  # that a request waits for Redis
_AWAY_SECONDS = 5.0  # for which a Redis that did not answer is not asked again

# By the server's clock, so that replicas agree. What is left stays until the bucket would be full anyway.
_TAKE = """
local limit, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local held = redis.call('HMGET', KEYS[1], 'level', 'at')
local level = tonumber(held[1]) or limit
level = math.min(limit, level + math.max(0, now - (tonumber(held[2]) or now)) * limit / 60)
local granted = level >= math.min(cost, limit)
local after = granted and level - cost or level
redis.call('HSET', KEYS[1], 'level', string.format('%.6f', after), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], math.ceil((limit - after) * 60 / limit) + 1)
return {granted and 1 or 0, string.format('%.6f', level)}
"""

log = logging.getLogger(__name__)


class SharedBuckets:
    """Threads share it. It never raises."""

    def __init__(self, client: redis.Redis, own: Buckets) -> None:
        """`own` answers while Redis does not."""
        self._take = client.register_script(_TAKE)
        self._own = own
        self._guard = threading.Lock()
        self._away_until = 0.0

    def take(self, name: str, limit: int, cost: int) -> Level:
        """Take what `Buckets.take` describes."""
        if time.monotonic() < self._away_until:
            return self._own.take(name, limit, cost)
        try:
            granted, filled = cast(Any, self._take(keys=[f"lethe:quota:{name}"], args=[limit, cost]))
        except RedisError as error:
            self._lost(error)
            return self._own.take(name, limit, cost)
        level = float(filled)
        if granted:
            return Level(True, max(0.0, level - cost), 0.0)
        return Level(False, max(0.0, level), (min(cost, limit) - level) * 60 / limit)

    def _lost(self, error: RedisError) -> None:
        with self._guard:
            first = time.monotonic() >= self._away_until
            self._away_until = time.monotonic() + _AWAY_SECONDS
        if first:
            log.warning("quotas_in_process", extra={"reason": type(error).__name__, "again_in_seconds": _AWAY_SECONDS})


def open_buckets(redis_url: str | None) -> Buckets:
    """Buckets in Redis if there is a URL, else of this process. Raises InvalidSetting for what is no URL of Redis."""
    own = LocalBuckets()
    if redis_url is None:
        return own
    try:
        client = redis.Redis.from_url(
            redis_url,
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        raise InvalidSetting("LETHE_REDIS_URL is not a Redis URL; expected redis://host:6379/0") from None
    return SharedBuckets(client, own)

"""Events from a Redis stream: read as one consumer of a group, taken into the ledger, and only then acknowledged.

An entry that was taken and not acknowledged (this process was killed in between, Redis was away) is delivered again, and
changes nothing: it has an id of its own, which its event is known by. What cannot be read as an event is counted, told by the
entry's id, and acknowledged, so that it holds up nobody.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
from redis.exceptions import RedisError, ResponseError

from service.errors import InvalidSetting, LedgerUnavailable, StoreError

ROW = b"row"  # the field of an entry that holds an event, as a line of JSON

_BLOCK_SECONDS = 0.5  # how late a stop may be noticed
_ANSWER_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds, while Redis or the ledger are away
_TELL_SECONDS = 60.0  # between two lines that tell how much was taken

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream: its id, and the event in it, or None if it has none (any more)."""

    entry_id: str
    row: bytes | None


class EventStream:
    """One consumer of a stream's group, for one thread. All methods raise RedisError while Redis is away."""

    def __init__(self, client: redis.Redis, name: str, group: str, consumer: str, claim_seconds: float) -> None:
        """What another consumer has held for `claim_seconds` without acknowledging it is taken over from it."""
        self._client: Any = client  # its types say that each answer may be awaited
        self._name, self._group, self._consumer = name, group, consumer
        self._claim_seconds = claim_seconds
        self._is_opened = False
        self._own_after: str | None = "0"  # own entries from before a restart are read up to here; None: all are
        self._claimed_at = -claim_seconds
        self._digest = hashlib.sha256(name.encode()).hexdigest()[:16]

    def read(self, most: int) -> list[Entry]:
        """The next entries: own ones from before a restart, those of dead consumers, new ones. Waits a moment for these."""
        if not self._is_opened:
            self._open()
        try:
            return self._own(most) or self._orphans(most) or self._new(most)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self._is_opened = False  # somebody has emptied Redis
            return []

    def acknowledge(self, entries: Sequence[Entry], remove: bool) -> None:
        """Let nobody be given these again; with `remove` they leave the stream, too."""
        if entries:
            ids = [entry.entry_id for entry in entries]
            self._client.xack(self._name, self._group, *ids)
            if remove:
                self._client.xdel(self._name, *ids)

    def event_id(self, entry: Entry) -> str:
        """What an event without an id of its own is known by."""
        return f"redis:{self._digest}:{entry.entry_id}"

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def _open(self) -> None:
        try:
            self._client.xgroup_create(self._name, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._is_opened, self._own_after = True, "0"

    def _own(self, most: int) -> list[Entry]:
        if self._own_after is None:
            return []
        found = _entries(self._group_read(most, self._own_after))
        self._own_after = found[-1].entry_id if found else None
        return found

    def _orphans(self, most: int) -> list[Entry]:
        if time.monotonic() - self._claimed_at < self._claim_seconds:
            return []
        idle = int(self._claim_seconds * 1000)
        found = self._client.xautoclaim(self._name, self._group, self._consumer, idle, count=most)[1]
        if len(found) < most:
            self._claimed_at = time.monotonic()
        return _entries(found)

    def _new(self, most: int) -> list[Entry]:
        return _entries(self._group_read(most, ">"))

    def _group_read(self, most: int, after: str) -> list[Any]:
        answer = self._client.xreadgroup(
            self._group, self._consumer, {self._name: after}, count=most, block=int(_BLOCK_SECONDS * 1000)
        )
        [(_, found)] = (answer.items() if isinstance(answer, dict) else answer) or [(None, [])]
        return list(found)


def _entries(found: Sequence[Any]) -> list[Entry]:
    # Of an entry that was taken out of the stream meanwhile the fields are missing; old servers give nothing in its place.
    told = [one for one in found if one is not None and one[0] is not None]
    return [Entry(entry_id.decode(), (fields or {}).get(ROW)) for entry_id, fields in told]


def open_stream(url: str | None, name: str, group: str, consumer: str, claim_seconds: float) -> EventStream:
    """A consumer of this stream, connected when it first reads. Raises InvalidSetting if `url` is no Redis URL."""
    if url is None:
        raise InvalidSetting("a stream is in a Redis: LETHE_STREAM_URL says in which, or LETHE_REDIS_URL")
    try:
        client = redis.Redis.from_url(url, socket_timeout=_ANSWER_SECONDS, socket_connect_timeout=_ANSWER_SECONDS)
    except ValueError:
        raise InvalidSetting(
            "LETHE_STREAM_URL (or LETHE_REDIS_URL) is not a Redis URL; expected redis://host:6379/0"
        ) from None
    return EventStream(client, name, group, consumer, claim_seconds)


class StreamConsumer:
    """Takes entries of a stream into the ledger, batch by batch, until it is told to stop."""

    def __init__(
        self,
        stream: EventStream,
        take: Callable[[Sequence[Entry]], Counter[str]],
        stop: threading.Event,
        most: int,
        remove: bool,
    ) -> None:
        """`take` puts entries into the ledger, in one transaction, and counts their outcomes."""
        self._stream, self._take, self._stop = stream, take, stop
        self._most, self._remove = most, remove

    def run(self) -> Counter[str]:
        """How many entries had each outcome. What is under way when it is told to stop is finished first."""
        counts: Counter[str] = Counter()
        told = time.monotonic()
        while not self._stop.is_set():
            entries = self._insist(lambda: self._stream.read(self._most))
            if entries is not None:
                counts += self._taken(entries)
            if time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                log.info("events_taken", extra={"fields": dict(counts)})
        return counts

    def _taken(self, entries: Sequence[Entry]) -> Counter[str]:
        with_rows = [entry for entry in entries if entry.row is not None]
        taken = self._insist(lambda: self._take(with_rows) if with_rows else Counter())
        if taken is None:
            return Counter()  # they are delivered again
        sys.audit("lethe.ingest.taken")
        self._insist(lambda: self._stream.acknowledge(entries, self._remove))
        without = len(entries) - len(with_rows)
        return taken + Counter({"malformed": without} if without else {})

    def _insist(self, work: Callable[[], T]) -> T | None:
        """The result of `work`, tried until Redis and the ledger are there; None if it is told to stop before."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return work()
            except (RedisError, LedgerUnavailable, StoreError) as error:
                log.warning("ingest_waits", extra={"fields": {"kind": type(error).__name__, "seconds": pause}})
            if self._stop.wait(pause):
                return None
            pause = min(2 * pause, _LONGEST_PAUSE)

"""Telling an operator's system what became of a deletion, signed as Standard Webhooks has it (standardwebhooks.com).

At least once: an event stays in the outbox until the receiver has answered 2xx, through crashes and restarts, for three days.
It carries the request's id, its state and times; whoever wants more asks with a key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from service.errors import LetheError, NotDelivered
from service.ledger import OutboxEvent

log = logging.getLogger(__name__)

GIVE_UP_SECONDS = 3 * 86_400.0
_FIRST_PAUSE = 5.0  # seconds; twice as long after each further failure
_LONGEST_PAUSE = 3_600.0
_LEASE = 120.0  # seconds: longer than any delivery takes, names that resolve slowly included
_POLL = 2.0


class EventSource(Protocol):
    """The outbox."""

    def claim(self, lease: float) -> OutboxEvent | None: ...

    def note_delivered(self, event: OutboxEvent) -> None: ...

    def note_failed(self, event: OutboxEvent, retry_in: float | None) -> None: ...


class Posts(Protocol):
    """The receiver. Raises NotDelivered."""

    def post(self, body: bytes, headers: Mapping[str, str]) -> None: ...


class Stops(Protocol):
    def wait(self, timeout: float | None = None) -> bool: ...


class WebhookSender:
    """Delivers events, one at a time. Several may work on one outbox."""

    def __init__(
        self,
        outbox: EventSource,
        receiver: Posts,
        key: bytes,
        due_seconds: float,
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`due_seconds`: from when a deletion is owed until it is due. `chance` is uniform in [0, 1)."""
        self._outbox = outbox
        self._receiver = receiver
        self._key = key
        self._due_seconds = due_seconds
        self._clock = clock
        self._chance = chance

    def deliver_one(self) -> bool:
        """Try the event that is due, if any is; says whether there was one. Raises LedgerUnavailable."""
        event = self._outbox.claim(_LEASE)
        if event is None:
            return False
        body = self.body_of(event)
        try:
            self._receiver.post(body, self.headers_of(event, body))
        except NotDelivered as error:
            self._try_again(event, error)
        else:
            self._outbox.note_delivered(event)
        return True

    def run(self, stop: Stops) -> None:
        """Deliver whatever is due, and look again every two seconds, until `stop` is set. Its own thread's work."""
        while True:
            try:
                while self.deliver_one():
                    pass
            except Exception as error:
                # Whatever it was, this thread goes on: nobody would start another, and the event is due again.
                told = {"kind": type(error).__name__}
                log.warning("webhooks_halted", extra=told, exc_info=not isinstance(error, LetheError))
            if stop.wait(_POLL):
                return

    def body_of(self, event: OutboxEvent) -> bytes:
        """The notification: the same bytes at every attempt, unless a hold is released between two."""
        data = {
            "request_id": event.request_id,
            "state": event.state,
            "accepted_at": _iso(event.accepted_at),
            "due_at": _iso(event.owed_since + self._due_seconds),
        }
        content: dict[str, Any] = {
            "id": event_id(event),
            "type": f"forget.{event.state}",
            "timestamp": _iso(event.occurred_at),
            "data": data,
        }
        return json.dumps(content, separators=(",", ":")).encode()

    def headers_of(self, event: OutboxEvent, body: bytes) -> dict[str, str]:
        """Id, time of this attempt, and the signature over both and the body."""
        name, at = event_id(event), str(int(self._clock()))
        return {
            "Content-Type": "application/json",
            "User-Agent": "lethe",
            "webhook-id": name,
            "webhook-timestamp": at,
            "webhook-signature": signature(self._key, name, at, body),
        }

    def _try_again(self, event: OutboxEvent, error: NotDelivered) -> None:
        retry_in = self._pause(event.attempts)
        gives_up = self._clock() + retry_in - event.occurred_at > GIVE_UP_SECONDS
        self._outbox.note_failed(event, None if gives_up else retry_in)
        told = {"reason": str(error)} | ({} if gives_up else {"retry_in_seconds": round(retry_in, 1)})
        log.warning("webhook_given_up" if gives_up else "webhook_not_delivered", extra=told)

    def _pause(self, attempts: int) -> float:
        # Jitter, so that many that failed together do not come back together.
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempts - 1, 30))
        return longest * (0.5 + 0.5 * self._chance())


def event_id(event: OutboxEvent) -> str:
    """One name at every attempt, so that a receiver knows what it has seen. It holds no dot, which parts what is signed."""
    return f"{event.request_id}-{event.state}"


def signature(key: bytes, name: str, timestamp: str, body: bytes) -> str:
    """The header `webhook-signature`: HMAC-SHA256 over id, timestamp and body with dots between, in base64."""
    signed = hmac.new(key, f"{name}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""What is said between a client and the service until a call is answered: attempts, pauses, and when to give up.

A conversation is a generator. It yields what is to be done next, a call to be sent or a pause to be made, and is sent what came
of it; what it returns is the result. Whoever drives it sends and sleeps, synchronously or not; nothing is decided there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from lethe_client.calls import Call, forget_receipt
from lethe_client.errors import Conflict, LetheError, NoAnswer, NotInTime, NotUnderstood, refusal
from lethe_client.models import Problem

T = TypeVar("T")

_TRIED_AGAIN = (429, 503)
_NOT_READY = "receipt-not-ready"


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer came. `sent`: whether the request may have arrived."""

    sent: bool
    cause: Exception | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is to be done for so many seconds."""

    seconds: float


Step = Call[Any] | Pause
Outcome = httpx.Response | Lost | None  # None: of a pause
Conversation = Generator[Step, Outcome, T]


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is tried, in all, and how long is waited in between: `first_pause` seconds, doubled each time.

    A pause is of random length, between a half and the whole of that, so that clients do not come back all at once. What the
    service says (`Retry-After`) goes before; if it is longer than `longest_pause`, the call is given up at once.
    """

    attempts: int = 4
    first_pause: float = 0.5
    longest_pause: float = 30.0
    random: Random = field(default_factory=Random)

    def pause(self, attempt: int, retry_after: float | None) -> float | None:
        """Seconds to wait after attempt number `attempt` (from 1) has failed; None: give up."""
        if attempt >= self.attempts:
            return None
        if retry_after is not None:
            return retry_after if retry_after <= self.longest_pause else None
        whole = min(self.longest_pause, self.first_pause * 2.0 ** (attempt - 1))
        return whole * (0.5 + self.random.random() / 2)


def accepted(call: Call[Any], retries: Retries) -> Conversation[httpx.Response]:
    """Send a call until it is answered, or until there is no use in it; the content may still have to be read.

    Raises LetheError.
    """
    attempt = 1
    while True:
        outcome = yield call
        error = _failure(outcome)
        if error is None:
            assert isinstance(outcome, httpx.Response)
            return outcome
        pause = retries.pause(attempt, getattr(error, "retry_after", None)) if _may_repeat(call, outcome) else None
        if pause is None:
            raise error
        yield Pause(pause)
        attempt += 1


def answered(call: Call[T], retries: Retries) -> Conversation[T]:
    """The result of a call. Raises LetheError."""
    reply = yield from accepted(call, retries)
    return read(call, reply.content)


def read(call: Call[T], content: bytes) -> T:
    """What an answer, or a line of one, says. Raises NotUnderstood."""
    try:
        return call.read(content)
    except (ValidationError, UnicodeDecodeError):
        raise NotUnderstood(f"the answer to {call.method} is not what the contract says") from None


def receipt_awaited(
    request_id: str, seconds: float, every: float, retries: Retries, clock: Callable[[], float] = time.monotonic
) -> Conversation[bytes]:
    """The receipt of a deletion, asked for every so many seconds until it is there. Raises LetheError, NotInTime."""
    deadline = clock() + seconds
    while True:
        try:
            return (yield from answered(forget_receipt(request_id), retries))
        except Conflict as error:
            if error.kind != _NOT_READY:
                raise
        if clock() + every > deadline:
            raise NotInTime(f"the deletion was not completed within {seconds:g} seconds; it goes on")
        yield Pause(every)


class Lines:
    """Cuts what comes in pieces at line feeds, and nowhere else: texts in JSON may hold other ends of lines."""

    def __init__(self) -> None:
        self._rest = b""

    def of(self, piece: bytes) -> list[bytes]:
        """The lines that are whole with this piece."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [line for line in lines if line]


def _may_repeat(call: Call[Any], outcome: Outcome) -> bool:
    match outcome:
        case Lost(sent=False):
            return True
        case httpx.Response(status_code=429):
            return True  # refused before anything was done
        case httpx.Response(status_code=status):
            return call.repeatable and status in _TRIED_AGAIN
        case _:
            return call.repeatable


def _failure(outcome: Outcome) -> LetheError | None:
    match outcome:
        case httpx.Response(is_success=True):
            return None
        case httpx.Response(status_code=status, headers=headers):
            return refusal(_problem(status, outcome.content), _seconds(headers.get("retry-after")))
        case Lost(sent=sent, cause=cause):
            error = NoAnswer(sent)
            error.__cause__ = cause
            return error
    raise TypeError("a call was answered by a pause")


def _problem(status: int, content: bytes) -> Problem:
    """What the service says; or, where what stands before it has answered, the status alone."""
    try:
        return Problem.model_validate_json(content).model_copy(update={"status": status})
    except ValidationError:
        return Problem(title="Refused", status=status, detail="the answer is none of the service's own")


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds from now; it may also be a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None

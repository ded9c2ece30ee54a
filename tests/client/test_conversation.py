"""Attempts and pauses, without a network: what is tried again, after how long, and what never is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any

import httpx
import pytest

from lethe_client import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NoAnswer,
    NotFound,
    NotInTime,
    NotUnderstood,
    Refused,
    Retries,
    ServerFailed,
    TooMuch,
    Unauthenticated,
    Unavailable,
    calls,
)
from lethe_client.conversation import Conversation, Lines, Lost, Outcome, Pause, answered, receipt_awaited

OK = httpx.Response(200, json={"status": "ok"})
SELECTION = {"item_ids": ["34"], "digest": "5f1c"}
NEVER_ARRIVED, UNKNOWN = Lost(sent=False), Lost(sent=True)


def problem(status: int, kind: str = "x", **headers: str) -> httpx.Response:
    body = {"type": f"urn:lethe:problem:{kind}", "title": "T", "status": status, "detail": "D"}
    return httpx.Response(status, json=body, headers=headers)


def held(conversation: Conversation[Any], outcomes: Sequence[Outcome]) -> tuple[Any, list[float]]:
    """What a conversation comes to if its calls have these outcomes, and the pauses that it made."""
    waiting, pauses = list(outcomes), []
    step = next(conversation)
    try:
        while True:
            if isinstance(step, Pause):
                pauses.append(step.seconds)
                step = conversation.send(None)
            else:
                step = conversation.send(waiting.pop(0))
    except StopIteration as ended:
        assert not waiting
        return ended.value, pauses


@pytest.mark.parametrize("first", [problem(429), problem(503), NEVER_ARRIVED, UNKNOWN])
def test_what_may_be_repeated_is_tried_again_after_growing_pauses(first: Outcome) -> None:
    result, pauses = held(answered(calls.healthz(), Retries(random=Random(7))), [first, first, first, OK])
    assert result.status == "ok"
    assert [0.25, 0.5, 1.0] <= pauses <= [0.5, 1.0, 2.0]
    assert len(set(pauses)) == 3


def test_after_the_last_attempt_it_is_given_up() -> None:
    for attempts in (1, 3):
        with pytest.raises(Unavailable):
            held(answered(calls.healthz(), Retries(attempts)), [problem(503)] * attempts)
    with pytest.raises(NoAnswer) as failed:
        held(answered(calls.healthz(), Retries(2)), [UNKNOWN] * 2)
    assert failed.value.sent


def test_the_service_says_when_to_come_again() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True)
    for said, least, most in (("7", 7, 7), ("0", 0, 0), (date, 7.5, 9)):
        _, [pause] = held(answered(calls.healthz(), Retries()), [problem(503, **{"Retry-After": said}), OK])
        assert least <= pause <= most
    with pytest.raises(TooMuch) as refused:  # longer than anybody waits
        held(answered(calls.healthz(), Retries()), [problem(429, **{"Retry-After": "3600"})])
    assert refused.value.retry_after == 3600
    _, [pause] = held(answered(calls.healthz(), Retries()), [problem(503, **{"Retry-After": "soon"}), OK])
    assert pause <= 0.5


def test_what_may_have_been_done_already_is_not_done_twice() -> None:
    for outcome in (UNKNOWN, problem(503)):
        with pytest.raises((NoAnswer, Unavailable)):
            held(answered(calls.forget_batch(selection=SELECTION), Retries()), [outcome])
    done = httpx.Response(202, json={"held": 0, "requests": []})
    for outcome in (NEVER_ARRIVED, problem(429)):
        assert held(answered(calls.forget_batch(selection=SELECTION), Retries()), [outcome, done])[0].held == 0


def test_what_is_wrong_is_not_tried_again() -> None:
    for status in (400, 401, 403, 404, 409, 413, 422, 500, 502):
        with pytest.raises(Refused):
            held(answered(calls.healthz(), Retries()), [problem(status)])


def test_every_attempt_is_one_deletion_and_one_event() -> None:
    one, other = calls.forget("ann"), calls.forget("ann")
    assert one.headers["Idempotency-Key"] != other.headers["Idempotency-Key"]
    assert calls.forget("ann", idempotency_key="k").headers == {"Idempotency-Key": "k"}
    call = calls.take_interactions([{"user_id": "a", "item_id": "1", "liked": True}] * 2)
    first, second = json.loads(call.content or b"")["interactions"]
    assert first.keys() == {"user_id", "item_id", "liked", "event_id"}
    assert first["event_id"] != second["event_id"]
    named = calls.take_interactions([{"user_id": "a", "item_id": "1", "liked": True, "event_id": "e"}])
    assert json.loads(named.content or b"")["interactions"][0]["event_id"] == "e"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidRequest),
        (401, Unauthenticated),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (422, InvalidRequest),
        (429, TooMuch),
        (500, ServerFailed),
        (503, Unavailable),
    ],
)
def test_a_refusal_is_an_error_of_its_kind_with_the_problem(status: int, error: type[Refused]) -> None:
    with pytest.raises(error) as refused:
        held(answered(calls.healthz(), Retries(1)), [problem(status, "store-damaged")])
    assert type(refused.value) is error
    assert (refused.value.status, refused.value.kind) == (status, "store-damaged")
    assert str(refused.value) == f"{status} T: D"


def test_who_stands_before_the_service_may_refuse_in_a_form_of_its_own() -> None:
    with pytest.raises(ServerFailed) as refused:
        held(answered(calls.healthz(), Retries()), [httpx.Response(502, text="<h1>Bad gateway, ann</h1>")])
    assert refused.value.status == 502
    assert "ann" not in str(refused.value)


def test_an_answer_that_is_none_of_the_contract_is_not_understood() -> None:
    with pytest.raises(NotUnderstood):
        held(answered(calls.healthz(), Retries()), [httpx.Response(200, text="ok")])


def test_words_and_fields_of_a_later_service_are_understood() -> None:
    body = {"taken": 0, "counts": {"deferred": 1}, "outcomes": ["deferred"], "newer": 1}
    call = calls.take_interactions([{"user_id": "a", "item_id": "1", "liked": True}])
    result, _ = held(answered(call, Retries()), [httpx.Response(200, json=body)])
    assert result.outcomes == ["deferred"]


def test_a_receipt_is_waited_for_and_not_for_ever() -> None:
    now = [0.0]
    waiting = problem(409, "receipt-not-ready", **{"Retry-After": "5"})

    def clock() -> float:
        now[0] += 1
        return now[0]

    receipt = httpx.Response(200, content=b'{"signed": 1} ')
    result, pauses = held(receipt_awaited("r", 60, 0.5, Retries(), clock), [waiting, waiting, receipt])
    assert (result, pauses) == (b'{"signed": 1} ', [0.5, 0.5])
    with pytest.raises(NotInTime, match="within 2 seconds"):
        held(receipt_awaited("r", 2, 0.5, Retries(), clock), [waiting] * 2)
    with pytest.raises(Conflict):
        held(receipt_awaited("r", 2, 0.5, Retries(), clock), [problem(409, "idempotency-conflict")])


def test_ids_are_one_segment_of_the_path_whatever_they_hold() -> None:
    paths = [calls.get_item(item).path for item in ("a/b", "..", ".", "a?b#c", "ä b", "%2F")]
    assert paths == [f"/items/{said}" for said in ("a%2Fb", "%2E%2E", "%2E", "a%3Fb%23c", "%C3%A4%20b", "%252F")]
    assert [str(httpx.URL(f"http://x{path}")) for path in paths] == [f"http://x{path}" for path in paths]


def test_what_is_refused_before_it_is_sent_says_nothing_of_what_was_given() -> None:
    for wrong in ({"user_id": "ann", "item_id": "1", "like": True}, {"user_id": "ann", "item_id": 7}):
        with pytest.raises(ValueError, match="EventRow") as refused:
            calls.take_interactions([wrong])
        assert "ann" not in str(refused.value)


def test_lines_end_at_line_feeds_alone() -> None:
    lines = Lines()
    assert [lines.of(piece) for piece in (b'{"a": "x', '\u2028y"}\n\n{'.encode(), b"}\n")] == [
        [],
        ['{"a": "x\u2028y"}'.encode()],
        [b"{}"],
    ]

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapters_store import StoreFault
from service.entrypoints.telemetry import Attendance, JsonFormatter, Telemetry, configure_logging
from service.errors import LedgerUnavailable
from service.forgetting.incidents import Incidents
from service.ledger import OutboxCounts
from service.records import ForgetRequest

DEADLINE = 86_400.0


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = False


def _record(error: BaseException | None = None, **fields: object) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("room", logging.WARNING, "room.py", 1, "it %s", ("happened",), info)
    record.fields = fields
    return record


def test_observations_come_out_under_their_published_names() -> None:
    telemetry = Telemetry(DEADLINE)
    telemetry.observe_request("/recommend", "POST", 200, 0.02)
    telemetry.observe_batch(12, 3)
    telemetry.observe_forward(0.1)
    telemetry.observe_neighbors(0.001)
    telemetry.observe_mask(0.01)
    lines = telemetry.render().decode().splitlines()
    for line in (
        'lethe_http_requests_total{method="POST",route="/recommend",status="200"} 1.0',
        'lethe_http_request_seconds_count{route="/recommend"} 1.0',
        "lethe_batch_tokens_sum 12.0",
        "lethe_queue_tokens 3.0",
        "lethe_forward_seconds_count 1.0",
        "lethe_neighbor_seconds_count 1.0",
        "lethe_forget_mask_seconds_count 1.0",
    ):
        assert line in lines
    telemetry.observe_queue(0)
    assert "lethe_queue_tokens 0.0" in telemetry.render().decode().splitlines()


def test_notifications_are_counted_by_state_and_a_ledger_that_cannot_be_asked_hides_nothing_else() -> None:
    telemetry = Telemetry(forget_deadline=1.0)
    answers = iter([OutboxCounts(2, 5, 1, 7.5)])

    def counts() -> OutboxCounts:
        try:
            return next(answers)
        except StopIteration:
            raise LedgerUnavailable("asleep") from None

    telemetry.watch_outbox(counts)
    lines = telemetry.render().decode().splitlines()
    for state, number in (("pending", 2), ("delivered", 5), ("given_up", 1)):
        assert f'lethe_webhook_events{{state="{state}"}} {number}.0' in lines
    assert "lethe_webhook_oldest_pending_seconds 7.5" in lines
    assert "lethe_webhook" not in telemetry.render().decode()


def test_what_was_found_damaged_is_counted_by_kind_whichever_process_found_it(tmp_path: Path) -> None:
    worker, server = Incidents(tmp_path / "incidents.jsonl"), Incidents(tmp_path / "incidents.jsonl")
    telemetry = Telemetry(DEADLINE)
    telemetry.watch_store(server.counts)
    assert 'lethe_store_damaged_total{kind="adapter"} 0.0' in telemetry.render().decode().splitlines()
    for _ in range(3):
        worker.note(StoreFault("adapter", "a" * 64, "adapter: weights differ"))  # one, until it is repaired
    worker.note(StoreFault("memory", "a" * 64, "memory: counts differ"))
    worker.repaired()
    worker.note(StoreFault("adapter", "a" * 64, "adapter: weights differ"))
    lines = telemetry.render().decode().splitlines()
    assert 'lethe_store_damaged_total{kind="adapter"} 2.0' in lines
    assert 'lethe_store_damaged_total{kind="memory"} 1.0' in lines
    assert "a" * 8 not in (tmp_path / "incidents.jsonl").read_text()


def test_how_long_an_owed_deletion_has_been_left_alone_counts_from_its_last_attempt() -> None:
    attendance = Attendance()
    waiting = ForgetRequest("a", "s", "user", "accepted", 1, (), 0, 0, 0, accepted_at=100.0, masked_at=100.0)
    tried = replace(waiting, request_id="b", state="failed", attempts=1, retraining_at=150.0)
    assert attendance.unattended([], 500.0) == 0
    assert attendance.unattended([waiting], 160.0) == 60.0
    assert attendance.unattended([tried], 160.0) == 10.0
    assert attendance.unattended([tried, waiting], 160.0) == 60.0
    again = replace(tried, attempts=2)
    assert attendance.unattended([again], 170.0) == 0  # seen now: it cannot be longer ago than the last reading
    assert attendance.unattended([again], 200.0) == 30.0
    assert attendance.unattended([replace(again, attempts=3)], 210.0) == 0
    assert attendance.unattended([waiting], 90.0) == 0  # a clock that was set back


def test_two_processes_worth_of_metrics_can_live_in_one() -> None:
    Telemetry(DEADLINE).observe_forward(1)
    assert "lethe_forward_seconds_count 0.0" in Telemetry(DEADLINE).render().decode()


def test_a_log_line_is_one_json_object() -> None:
    line = JsonFormatter().format(_record(route="/x", seconds=0.5))
    assert "\n" not in line
    parsed = json.loads(line)
    assert parsed.pop("time").endswith("+00:00")
    assert parsed == {"level": "warning", "logger": "room", "event": "it happened", "route": "/x", "seconds": 0.5}


def test_a_log_line_tells_the_reason_and_drops_what_nobody_vouched_for() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("room")
    logger.addHandler(handler)
    told = {"reason": "the disk is full", "status": -9, "retry_in_seconds": 5.0, "again_in_seconds": 2.0}
    logger.warning("reconcile_failed", extra={**told, "user_id": "ann"})
    line = json.loads(stream.getvalue())
    assert {name: line.get(name) for name in told} == told
    assert "ann" not in stream.getvalue()


def test_an_exception_is_logged_with_its_causes_but_without_any_message() -> None:
    try:
        try:
            raise KeyError("secret")
        except KeyError as cause:
            raise ValueError("secret") from cause
    except ValueError as error:
        line = JsonFormatter().format(_record(error))
    assert "secret" not in line
    chain = json.loads(line)["exception"]
    assert [link["type"] for link in chain] == ["builtins.ValueError", "builtins.KeyError"]
    assert "test_telemetry.py" in chain[0]["frames"][0]


@pytest.mark.usefixtures("_logging_restored")
def test_every_logger_writes_json_lines_and_the_servers_access_log_is_silent() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("uvicorn.access").info("GET /?user=1")
    logging.getLogger("service.room").debug("too much")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["started"]

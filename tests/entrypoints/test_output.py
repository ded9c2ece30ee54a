"""What servers and workers write: one display on a terminal, and JSON lines that it understands elsewhere."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from service.config import Settings
from service.entrypoints.output import LogOutput, TerminalOutput
from service.entrypoints.supervisor import Supervisor
from service.entrypoints.telemetry import JsonFormatter


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What a worker whose lines are relayed writes meanwhile, as JSON."""
    written: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(JsonFormatter().format(record))

    logger, handler = logging.getLogger("service.entrypoints.output"), Kept()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(before)


def terminal() -> tuple[TerminalOutput, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None, legacy_windows=False)
    return TerminalOutput(console), stream


def test_a_log_tells_a_phase_at_its_beginning_and_every_quarter(lines: list[str]) -> None:
    output = LogOutput()
    output.phase("training adapters", 8)
    for _ in range(8):
        output.advance(1)
    output.phase("nothing to do", 0)
    told = [json.loads(line) for line in lines]
    assert [(line["event"], line["phase"], line["done"], line["total"]) for line in told] == [
        ("progress", "training adapters", done, 8) for done in (0, 2, 4, 6, 8)
    ]


def test_a_display_shows_what_a_worker_relays(lines: list[str]) -> None:
    worker = LogOutput(relayed=True)
    worker.phase("training adapters", 4)
    worker.advance(4)
    output, stream = terminal()
    with output:
        for line in [*lines, "Fatal: something that is no log line"]:
            output.relay(line)
        output.relay(
            '{"time": "2026-11-29T01:02:03.000+00:00", "level": "warning", "event": "worker_ended", "status": 1}'
        )
    shown = stream.getvalue()
    assert "training adapters: 4 in " in shown
    assert "Fatal: something that is no log line" in shown
    assert "warning: worker ended status=1" in shown
    assert "{" not in shown


def test_a_display_tells_an_error_by_its_kind_and_place_and_quotes_nothing() -> None:
    output, stream = terminal()
    with output:
        try:
            raise ValueError("ann's secret")
        except ValueError as error:
            record = logging.LogRecord("room", logging.ERROR, "", 0, "it failed", None, (type(error), error, None))
        output.emit(record)
    assert "error: it failed" in stream.getvalue()
    assert "builtins.ValueError" in stream.getvalue()
    assert "secret" not in stream.getvalue()


def test_a_welcome_can_be_copied_whole() -> None:
    output, stream = terminal()
    command = f"curl -s http://127.0.0.1:8000/recommend -d '{'x' * 200}'"
    with output:
        output.ready("http://127.0.0.1:8000/docs", command)
    assert f"  {command}\n" in stream.getvalue()  # on one line, however narrow the terminal is
    assert "http://127.0.0.1:8000/docs" in stream.getvalue()


@pytest.mark.thorough
def test_a_supervisor_hands_over_every_line_of_its_worker() -> None:
    settings = cast(Settings, SimpleNamespace(environment=lambda: {"LETHE_NO_SUCH_SETTING": "1"}))
    said: list[str] = []
    ended = threading.Event()

    def relay(line: str) -> None:
        said.append(line)
        ended.set()

    supervisor = Supervisor(settings, relay)
    supervisor.start()
    try:
        assert ended.wait(120)
    finally:
        supervisor.stop()
    assert "LETHE_NO_SUCH_SETTING" in said[0]  # a worker that cannot start says why

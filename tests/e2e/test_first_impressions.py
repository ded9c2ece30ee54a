"""What a newcomer sees of `make serve`: everything that its command writes, to a terminal and to a file."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx
import pytest

from tests.forks import PATIENCE

from .conftest import Installation, eventually

# The demo as `make serve` imports it, of which less is learned than there could be.
HASTY = {"LETHE_SAMPLES_PER_USER": "1", "LETHE_EPOCHS": "1", "LETHE_TREE_DEPTH": "0", "LETHE_MAX_SHARD_SIZE": "2048"}
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pseudo-terminal, and all that was written to it."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self._written = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """Without the movements of the cursor and the colors."""
        return _ESCAPES.sub("", self._written.decode(errors="replace"))

    def lines(self) -> list[str]:
        return [line.strip() for line in re.split(r"[\r\n]+", self.text) if line.strip()]

    def close(self) -> None:
        os.close(self.theirs)
        self._thread.join(PATIENCE)
        os.close(self._ours)

    def _read(self) -> None:
        try:
            while part := os.read(self._ours, 65536):
                self._written += part
        except OSError:  # Linux says so that nobody has it open any more
            return


@contextmanager
def started(environment: Mapping[str, str], out: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`lethe serve` as an operator starts it, with both streams on `out`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service.entrypoints", "serve", "--port", "0", *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def asked(command: str) -> httpx.Response:
    """What a `curl` with headers and a body asks for."""
    name, *words = shlex.split(command)
    assert name == "curl"
    [url] = [word for word in words if word.startswith("http")]
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    return httpx.post(url, content=words[words.index("-d") + 1], headers=headers, timeout=60)


def complaints(text: str) -> list[str]:
    """Lines that no newcomer should have to read."""
    quiet = text.replace("uvicorn.error", "uvicorn")  # the name of the logger that says that it has started
    return [line for line in quiet.splitlines() if re.search(r"warn|error|traceback|deprecat", line, re.IGNORECASE)]


def test_a_complaint_is_found() -> None:
    assert complaints("<frozen runpy>:128: RuntimeWarning: found in sys.modules\n01:02:03 ready") != []
    assert complaints('{"level": "warning", "event": "not_ready"}') != []


def watched_start(installation: Installation, *options: str) -> Terminal:
    """What `lethe serve` writes to a terminal until it is ready, its first `curl` is answered, and it has ended."""
    terminal, environment = Terminal(), installation.environment | {"TERM": "xterm", "COLUMNS": "120"}
    try:
        with started(environment, terminal.theirs, *options) as process:

            def welcomed() -> bool:
                assert process.poll() is None, terminal.text
                return "curl " in terminal.text

            eventually(welcomed, "it says that it is ready", within=5 * PATIENCE)
            # A line of the log may have come behind them.
            command = next(line for line in reversed(terminal.lines()) if "curl " in line)
            assert asked(command).json()["items"][2]["title"]
            found = re.search(r"http://\S+/docs", terminal.text)
            assert found is not None
            assert httpx.get(found[0]).status_code == 200
            eventually(lambda: "request route=/recommend method=POST status=200" in terminal.text, "it is told")
    finally:
        terminal.close()
    assert complaints(terminal.text) == []
    assert not [line for line in terminal.lines() if line.startswith("{")]  # no JSON
    return terminal


@pytest.mark.thorough
def test_a_start_on_a_terminal_ends_with_what_to_try(copies: Callable[..., Installation]) -> None:
    watched_start(copies())


@pytest.mark.thorough
def test_a_first_start_shows_what_it_does(installations: Callable[..., Installation]) -> None:
    shown = watched_start(installations(**HASTY), "--demo").text
    assert re.search(r"\d\d:\d\d:\d\d training shards: \d+ in [\d.]+ s", shown)
    assert "━" in shown  # a bar


@pytest.mark.thorough
def test_a_start_elsewhere_writes_json_lines_alone(copies: Callable[..., Installation]) -> None:
    installation = copies()
    with installation.log.open("wb") as log, started(installation.environment, log.fileno(), "--demo") as process:

        def told() -> list[dict[str, object]]:
            assert process.poll() is None, installation.log.read_text()
            written = installation.log.read_text()
            return [json.loads(line) for line in written[: written.rfind("\n") + 1].splitlines()]

        [ready] = eventually(lambda: [line for line in told() if line["event"] == "ready"], "it is ready")
        assert asked(str(ready["try"])).json()["items"]
        assert str(ready["docs"]).endswith("/docs")
    assert complaints(installation.log.read_text()) == []


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_form_of_log_lines_can_be_chosen(log_format: str, installations: Callable[..., Installation]) -> None:
    installation = installations(LETHE_LOG_FORMAT=log_format)
    with installation.serving("--no-worker"):
        pass
    [line, *_] = [line for line in installation.log.read_text().splitlines() if "startup complete" in line]
    assert line.startswith("{") == (log_format == "json")

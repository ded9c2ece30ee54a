"""Keeps a worker alive as a child of `lethe serve`. The parent imports nothing of what the child works with."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import IO

from service.config import Settings

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds before a worker that ended is started again
_GRACE = 10.0  # seconds that a worker has to end before it is killed


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as `sys.exit(0)` does: what is open gets closed, and the exit code is 0."""
    signal.signal(signal.SIGTERM, _leave)


class Supervisor:
    """Keeps one worker alive beside a server, started again with growing pauses when it ends."""

    def __init__(self, settings: Settings, relay: Callable[[str], None] | None = None) -> None:
        """`relay` is handed each line that the worker writes to standard error; without it the worker writes there itself."""
        self._command = [sys.executable, "-m", "service.entrypoints", "worker", "--supervised"]
        self._environment = settings.environment()
        self._relay = relay
        if relay is not None:
            self._command.append("--relayed")
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the worker: politely, then not."""
        self._stopping.set()
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()
            try:
                child.wait(_GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
        self._thread.join(_GRACE)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            # The worker ends when this pipe closes, also if this process is killed.
            self._child = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stderr=None if self._relay is None else subprocess.PIPE,
            )
            if self._child.stderr is not None:
                threading.Thread(target=self._pass_on, args=[self._child.stderr], name="relay", daemon=True).start()
            status = self._child.wait()
            if self._child.stdin is not None:
                self._child.stdin.close()
            if self._stopping.is_set():
                return
            log.warning("worker_ended", extra={"status": status, "again_in_seconds": pause})
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _pass_on(self, lines: IO[bytes]) -> None:
        # Until its last child has ended too: whatever any of them writes is to be seen.
        with lines:
            for line in lines:
                if self._relay is not None:
                    self._relay(line.decode(errors="replace").rstrip("\n"))


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)

"""Keeps a worker alive as a child of `lethe serve`. The parent imports nothing of what the child works with."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from types import FrameType

from service.config import Settings

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds before a worker that ended is started again
_GRACE = 10.0  # seconds that a worker has to end before it is killed


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as `sys.exit(0)` does: what is open gets closed, and the exit code is 0."""
    signal.signal(signal.SIGTERM, _leave)


class Supervisor:
    """Keeps one worker alive beside a server, started again with growing pauses when it ends."""

    def __init__(self, settings: Settings) -> None:
        self._command = [sys.executable, "-m", "service.entrypoints", "worker", "--supervised"]
        self._environment = settings.environment()
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
            self._child = subprocess.Popen(self._command, env=self._environment, stdin=subprocess.PIPE)
            status = self._child.wait()
            if self._stopping.is_set():
                return
            log.warning("worker_ended", extra={"status": status, "again_in_seconds": pause})
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)

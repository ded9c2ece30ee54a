"""Commands of Lethe as processes: forks of one that has imported everything already, or fresh ones."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

PATIENCE = 120.0  # seconds: far more than anything needs, so that a busy machine fails nothing


class Stuck(Exception):
    """Something that must happen did not happen while patience lasted."""


class Running(Protocol):
    """What a fork and a `subprocess.Popen` have in common."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


# Begins a command of the command line: arguments, environment, file of its log.
Begin = Callable[[Sequence[str], Mapping[str, str], Path], Running]


def begin_afresh(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """In a process that an operator would start."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "service.entrypoints", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def end(running: Running) -> int:
    """SIGTERM, and the exit code."""
    running.send_signal(signal.SIGTERM)
    return running.wait(PATIENCE)


class Child:
    """One forked command."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self._forks = forks
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._code: int | None = None

    def ended(self, within: float = 0) -> bool:
        """Whether it has ended, after waiting for that at most so many seconds."""
        if self._code is None and select.select([self._descriptor], [], [], within)[0]:
            self._code = self._forks.reap(self.pid)
            os.close(self._descriptor)
        return self._code is not None

    def poll(self) -> int | None:
        self.ended()
        return self._code

    def wait(self, timeout: float = PATIENCE) -> int:
        if not self.ended(timeout):
            raise Stuck("a command did not end")
        assert self._code is not None
        return self._code

    def send_signal(self, sig: int) -> None:
        if not self.ended():
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self.wait()


class Forks:
    """Begins commands in forks of a process that has already imported the command line."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C is for whoever opened this, who then lets it end.
        self._process = subprocess.Popen(
            # -P: `research` is the distribution, not the folder of its tests beside the script
            [sys.executable, "-P", str(Path(__file__).with_name("prefork.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def begin(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        out: Path,
        err: Path | None = None,
        armed: Path | None = None,
    ) -> Child:
        """Both streams go to `out`, unless `err` is given. The file `armed` tells it where to die, once there is one."""
        files = {"out": str(out), "err": str(err or out), "armed": armed and str(armed)}
        return Child(self, self._ask({"arguments": list(arguments), "environment": dict(environment), **files}))

    def reap(self, pid: int) -> int:
        """The exit code of one that has ended."""
        return self._ask({"reap": pid})

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._one_at_a_time:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

"""Commands of Lethe as processes that may die at any moment, and a client of the server among them."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

PATIENCE = 60.0  # seconds: far more than anything needs, so that a busy machine fails nothing


class Stuck(Exception):
    """Something that must happen did not happen within `PATIENCE`."""


class Child:
    """One running command."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self.code: int | None = None

    def ended(self, within: float = 0) -> bool:
        """Whether it has ended, after waiting for that at most so many seconds."""
        if self.code is None and select.select([self._descriptor], [], [], within)[0]:
            self.code = self._nursery.bury(self.pid)
            os.close(self._descriptor)
        return self.code is not None

    def wait(self) -> int:
        if not self.ended(PATIENCE):
            raise Stuck("a command did not end")
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


class Nursery:
    """Forks commands. `armed` is the file that tells them where to die."""

    def __init__(self, environment: Mapping[str, str], log: Path, armed: Path) -> None:
        self._environment = dict(environment)
        self._log = log
        self._armed = armed
        # A session of its own: Ctrl-C is for the runner, which then lets this one end.
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def start(self, *arguments: str, **changed: str) -> Child:
        command = {
            "arguments": arguments,
            "environment": {**self._environment, **changed},
            "log": str(self._log),
            "armed": str(self._armed),
        }
        return Child(self, self._ask(command))

    def run(self, *arguments: str, **changed: str) -> int:
        """The exit code of a command that nobody kills."""
        return self.start(*arguments, **changed).wait()

    def bury(self, pid: int) -> int:
        return self._ask({"bury": pid})

    def _ask(self, command: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Server:
    """A running `lethe serve --no-worker`."""

    def __init__(self, nursery: Nursery) -> None:
        self.port = free_port()
        self.child = nursery.start("serve", "--no-worker", "--port", str(self.port))
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE)

    def get(self, path: str) -> httpx.Response:
        return self._client.get(path)

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        return self._client.post(path, json=body, headers=headers)

    def answers(self) -> bool:
        """Whether it listens; waits until it does, or has ended."""
        if not wait_until(lambda: self.child.ended() or self._listens()):
            raise Stuck("the server does not listen")
        return not self.child.ended()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def close(self) -> None:
        self._client.close()
        self.child.kill()


def wait_until(happened: Callable[[], bool]) -> bool:
    """Whether it happened before patience ended."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""Commands of Lethe as processes that may die at any moment, and a client of the server among them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from tests.forks import Child, Forks, Stuck

PATIENCE = 60.0  # seconds: far more than anything needs here, so that a busy machine fails nothing


class Nursery:
    """Begins commands that may be killed. `armed` is the file that tells them where to die."""

    def __init__(self, forks: Forks, environment: Mapping[str, str], log: Path, armed: Path) -> None:
        self._forks = forks
        self._environment = dict(environment)
        self._log = log
        self._armed = armed

    def start(self, *arguments: str, **changed: str) -> Child:
        return self._forks.begin(arguments, {**self._environment, **changed}, self._log, armed=self._armed)

    def run(self, *arguments: str, **changed: str) -> int:
        """The exit code of a command that nobody kills."""
        return self.start(*arguments, **changed).wait(PATIENCE)


class Server:
    """A running `lethe serve --no-worker`."""

    def __init__(self, nursery: Nursery, key: str | None = None) -> None:
        self.port = free_port()
        self.child = nursery.start("serve", "--no-worker", "--port", str(self.port))
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE, headers=headers)

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

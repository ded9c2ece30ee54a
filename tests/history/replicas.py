"""An installation of many people with few rows each, and two replicas and a worker on it, as real processes."""

from __future__ import annotations

import csv
import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.conftest import ITEMS, Installation
from tests.forks import Begin, end

from .checker import OK

RATED_EACH = 6  # so few that every interaction is in some sample, and forgetting it changes an adapter or a row
SETTINGS = {
    "LETHE_MAX_SHARD_SIZE": "60",
    "LETHE_EPOCHS": "1",
    "LETHE_LOG_LEVEL": "WARNING",
}
PATIENCE = 180.0  # seconds: far more than anything needs here, so that a busy machine fails nothing
_STALE_SECONDS = 2.0  # servers close a connection that is idle for 5 s, perhaps just while it is used again


def import_people(installation: Installation, people: int) -> dict[str, list[str]]:
    """Fill an empty installation. User -> ids of the items that they rated, oldest first."""
    names = [f"reader-{number:04}" for number in range(people)]
    rated = {name: random.Random(name).sample([item_id for item_id, _ in ITEMS], RATED_EACH) for name in names}
    items, interactions = installation.folder / "items.csv", installation.folder / "interactions.csv"
    _write(items, ["item_id", "title", "genres"], [[item_id, title, "Drama|War"] for item_id, title in ITEMS])
    rows = [
        [name, item_id, random.Random(name + item_id).randrange(2), 1_000 + when]
        for name in names
        for when, item_id in enumerate(rated[name])
    ]
    _write(interactions, ["user_id", "item_id", "liked", "timestamp"], rows)
    installation.lethe("import", "table", "--items", str(items), "--interactions", str(interactions), "--noun", "movie")
    return rated


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


class Replica:
    """Talks to one server; every thread over a connection of its own."""

    def __init__(self, name: str, key: str | None = None) -> None:
        self.name = name
        self._own_headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.port = _free_port()
        self._own = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and content; status 0 if there was no answer at all."""
        return self._ask("GET", path, None, {})

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        return self._ask("POST", path, json.dumps(body), {"Content-Type": "application/json"})

    def put(self, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        return self._ask("PUT", path, json.dumps(body), {"Content-Type": "application/json"})

    def patch(self, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        return self._ask("PATCH", path, json.dumps(body), {"Content-Type": "application/json"})

    def ready(self) -> bool:
        return self.get("/readyz")[0] == OK

    def _ask(self, method: str, path: str, content: str | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        # The standard library's client costs a third of what others do, and shares the processors with the servers.
        connection = self._connection()
        try:
            connection.request(method, path, content, {**self._own_headers, **headers})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return 0, b""

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            self._connections.append(self._own.connection)
        connection: http.client.HTTPConnection = self._own.connection
        now = time.monotonic()
        if now - getattr(self._own, "used", now) > _STALE_SECONDS:
            connection.close()  # it opens again by itself
        self._own.used = now
        return connection

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@contextmanager
def two_replicas(installation: Installation, begin: Begin, key: str | None = None) -> Iterator[tuple[Replica, Replica]]:
    """Both ready, and a worker beside them. They are asked with the key, if there is one."""
    replicas = Replica("A", key), Replica("B", key)
    serving = [("serve", "--no-worker", "--port", str(replica.port)) for replica in replicas]
    with ExitStack() as stack:
        for arguments in (*serving, ("worker",)):
            stack.callback(end, begin(arguments, installation.environment, installation.log))
        for replica in replicas:
            stack.callback(replica.close)
        wait_until(lambda: all(replica.ready() for replica in replicas), "both replicas are ready")
        yield replicas


def wait_until(ask: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ask():
        if time.monotonic() > deadline:
            raise TimeoutError(f"within {PATIENCE:g} s it did not happen that {what}")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

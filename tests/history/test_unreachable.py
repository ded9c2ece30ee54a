"""A replica that cannot ask the ledger does not know who asked to be forgotten meanwhile, so it says nothing at all."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn

from service.config import load_settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.serving import serving_app
from service.ledger import Ledger
from service.records import Interaction
from tests.e2e.conftest import QUICK, TITLES, eventually

from .conftest import Populated
from .load import ledger_url

RANKING = {"history": {"liked": TITLES[:2]}, "candidates": TITLES[5:7], "explain": True}
OF_A_USER = {"user_id": "ann", "strict": True, "candidates": TITLES[5:7]}


@dataclass(frozen=True)
class Cut:
    """A replica's own way to the database, and ours beside it."""

    server: str  # URL
    role: str
    replica_url: str
    our_url: str

    @contextmanager
    def made(self) -> Iterator[None]:
        """While this lasts the replica's connections are cut and new ones are refused."""
        self._tell(f"ALTER ROLE {self.role} NOLOGIN")
        self._tell(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.role}'")
        yield
        self._tell(f"ALTER ROLE {self.role} LOGIN")

    def _tell(self, statement: str) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture
def cut(postgres_url: str) -> Iterator[Cut]:
    name = f"cut_{uuid.uuid4().hex}"
    ours = postgres_url.replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        connection.execute(f"CREATE DATABASE {name} OWNER {name}")
        yield Cut(postgres_url, name, ours.replace("//postgres:", f"//{name}:"), ours)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"DROP ROLE {name}")


@contextmanager
def _served(home: Home) -> Iterator[httpx.Client]:
    app = serving_app(home, on_start=lambda: None, on_stop=lambda: None)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, "the replica listens")
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            eventually(lambda: client.get("/readyz").status_code == 200, "the replica is ready")
            yield client
    finally:
        server.should_exit = True
        thread.join()


def _home(populated: Populated, url: str) -> Home:
    """The store of the populated installation over a ledger of its own: two people, and the same catalog."""
    environment = populated.installation.environment
    settings = load_settings(
        home=Path(environment["LETHE_HOME"]),
        model=environment["LETHE_MODEL"],
        secret=QUICK["LETHE_SECRET"],
        database_url=url,
        threads=1,
    )
    home = Home.open(settings)
    with Ledger(ledger_url(populated.installation), home.secret) as origin:
        items, published = origin.items(), origin.published()
    rows = [Interaction(user, items[n].item_id, True, n) for user in ("ann", "bob") for n in range(3)]
    home.ledger.import_data(items, rows, "movie")
    assert published is not None
    home.ledger.publish(replace(published, fence=0), [], [])
    return home


@pytest.mark.thorough
def test_a_replica_without_its_ledger_answers_503_and_then_as_the_ledger_has_become(
    populated: Populated, cut: Cut
) -> None:
    home = _home(populated, cut.replica_url)
    with _served(home) as client, Ledger(cut.our_url, home.secret) as ledger:
        before = client.post("/recommend", json=RANKING).json()
        used = next(digest for digest, weight in before["weights"].items() if weight > 0)
        ledger.record_lineage(before["fence"], {used: ["ann"]}, {})
        assert client.post("/recommend", json=OF_A_USER).status_code == 200
        with cut.made():
            for _ in range(2):
                _assert_silent(client)
            accepted = ledger.forget("ann", None, None).request
            _assert_silent(client)
        after = eventually(lambda: _ranking(client), "the replica answers again")
        assert after["fence"] == accepted.fence > before["fence"]
        assert after["weights"][used] == 0
        assert client.post("/recommend", json=OF_A_USER).status_code == 404
        assert client.get("/healthz").status_code == 200


def _assert_silent(client: httpx.Client) -> None:
    """Nothing that was in memory is told, and nothing is accepted that cannot be kept."""
    answers = [client.post("/recommend", json=body) for body in (RANKING, OF_A_USER)]
    answers += [client.post("/forget", json={"user_id": "bob"}), client.get("/healthz"), client.get("/generation")]
    for answer in answers:
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["type"] == "urn:lethe:problem:ledger-unavailable"


def _ranking(client: httpx.Client) -> dict[str, Any]:
    answer = client.post("/recommend", json=RANKING)
    return dict(answer.json()) if answer.status_code == 200 else {}

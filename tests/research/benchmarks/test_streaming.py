"""The streaming benchmark, before a server of the tests: what it sends, what it counts, and what it refuses to tell."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from research.benchmarks.serving import ServingFailed
from research.benchmarks.streaming import StreamingPlan, StreamingTrial
from service.building.progress import Silent

PLAN = StreamingPlan(batch=10, batches=4, wanted=200.0, rate=200.0, seconds=0.2, rounds=2)
ITEMS = [f"film-{n}" for n in range(5)]
PEOPLE = ["ann", "bob"]


class Taking(ThreadingHTTPServer):
    """Takes events, recommends, and remembers which rows and which people came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.rows: list[tuple[str, str]] = []
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Taking

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/interactions":
            self.server.rows += [(row["user_id"], row["item_id"]) for row in body["interactions"]]
            time.sleep(0.002)
        else:
            self.server.asked.append(body["user_id"])
        status = self.server.status if self.path == "/interactions" else 200
        self.wfile.write(f"HTTP/1.1 {status} .\r\nContent-Length: 2\r\n\r\n{{}}".encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Taking]:
    with Taking() as opened:
        thread = threading.Thread(target=opened.serve_forever, args=(0.01,))
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def test_rows_and_latencies_are_told_alone_and_beside_each_other(server: Taking, tmp_path: Path) -> None:
    trial = StreamingTrial(server.server_port, PEOPLE, ITEMS, tmp_path, PLAN, Silent())
    rows, latencies, goals = trial.run()
    assert [row["way"] for row in rows.rows] == [
        "the database alone",
        "POST /interactions alone",
        "200/s, beside recommendations",
        "all that is taken, beside recommendations",
    ]
    assert rows.rows[0]["x floor"] == 1
    assert all(0 < row["least"] <= row["rows/s"] <= row["most"] for row in rows.rows)
    assert [row["load"] for row in latencies.rows] == ["alone", "beside 200 rows/s", "beside all that is taken"]
    assert all(row["answered"] > 0 == row["refused"] for row in latencies.rows)
    assert next(goal["met"] for goal in goals.rows) == "yes"
    assert {item for _, item in server.rows} <= set(ITEMS)
    assert not {user for user, _ in server.rows} & set(PEOPLE)
    assert set(server.asked) == set(PEOPLE)


def test_a_server_that_refuses_events_gives_no_figure(server: Taking, tmp_path: Path) -> None:
    server.status = 429
    with pytest.raises(ServingFailed, match="429"):
        StreamingTrial(server.server_port, PEOPLE, ITEMS, tmp_path, PLAN, Silent()).run()

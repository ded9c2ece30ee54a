"""The serving benchmark, before a server and a scorer of the tests."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from research.benchmarks import serving
from research.benchmarks.deletions import Live, SteadyDeletions
from research.benchmarks.interleaved import Floor
from research.benchmarks.keys import KEYED, OPEN, Door, KeysTrial
from research.benchmarks.load import Answer
from research.benchmarks.requests import Asker, RequestShape
from research.benchmarks.serving import (
    Plan,
    ServingFailed,
    Trial,
    free_port,
    latency_row,
    running,
)
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.scoring.requests import EncodedRequest, ScoreRequest

PLAN = Plan(rounds=1, saturated_seconds=0.01, steady_seconds=0.4, overload_seconds=0.05)
FORGETTING = 0.02  # seconds


class Recommender(ThreadingHTTPServer):
    """Answers as a server of Lethe would, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.turn = threading.Lock()
        self.contexts: list[str] = []
        self.keys: list[str | None] = []
        self.forgotten: dict[str, float] = {}
        self.forgetting = FORGETTING


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recommender

    def do_POST(self) -> None:
        self.server.keys.append(self.headers.get("authorization"))
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/forget":
            self.server.forgotten[asked["user_id"]] = time.monotonic()
            self._answer(202, {"request_id": asked["user_id"]})
        else:
            with self.server.turn:
                time.sleep(0.005)  # so that the load which a trial puts on it stays small
            self.server.contexts.append(json.dumps(asked["history"]))
            self._answer(self.server.status, {})

    def do_GET(self) -> None:
        since = self.server.forgotten[self.path.rpartition("/")[2]]
        self._answer(200, {"state": "completed" if time.monotonic() - since > self.server.forgetting else "retraining"})

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.wfile.write(f"HTTP/1.1 {status} .\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Recommender]:
    with Recommender() as opened:
        thread = threading.Thread(target=opened.serve_forever, args=(0.01,))
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def asker(tiny_models: Callable[..., Path]) -> Asker:
    tokenizer = PromptTokenizer.load(ModelSpec(str(tiny_models("llama"))))
    return Asker(RequestShape(context=170, question=70, items=2), tokenizer, "movie", seed=0)


class Scorer:
    """Takes a millisecond a request, and remembers how many came at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encoded(self, requests: Sequence[ScoreRequest]) -> list[EncodedRequest]:
        return [EncodedRequest((1,), ((2,),) * len(request.candidates)) for request in requests]

    def score(self, requests: Sequence[EncodedRequest]) -> None:
        self.batches.append(len(requests))
        time.sleep(0.001 * len(requests))


@pytest.mark.thorough
def test_a_trial_tells_throughput_beside_the_scorers_and_latency_under_every_load(
    server: Recommender, asker: Asker
) -> None:
    scorer = Scorer()
    trial = Trial(server.server_port, scorer, asker, Floor(310, 2e9), max_tokens=4 * 310, plan=PLAN)
    throughput, latency = trial.run(iter(["ann", "bob", *map(str, range(50))]))
    assert [row["contestant"] for row in throughput.rows] == ["offline scorer", "http"]
    assert [row["floor tokens/request"] for row in throughput.rows] == [310, 310]
    assert set(scorer.batches) == {4}  # of 310 tokens each: no batch is larger than the server's may be
    alone, retraining, all_, refused = latency.rows
    assert [row["load"] for row in latency.rows] == [
        "70%, alone",
        "70%, a shard retrains",
        "300%, all",
        "300%, refused",
    ]
    assert all_["rate/s"] == pytest.approx(alone["rate/s"] * 3.0 / 0.7)
    assert alone["answered"] == alone["requests"] > 0
    assert retraining["deletions"] == len(server.forgotten) > 0
    assert retraining["s/deletion"] >= FORGETTING
    assert refused["requests"] == refused["answered"] == 0
    assert len(set(server.contexts)) == len(server.contexts)  # none is asked twice


@pytest.mark.thorough
def test_without_anybody_left_to_forget_nothing_is_told_of_deletions(server: Recommender, asker: Asker) -> None:
    trial = Trial(server.server_port, Scorer(), asker, Floor(310, 2e9), max_tokens=4 * 310, plan=PLAN)
    _, latency = trial.run(iter([]))
    retraining = latency.rows[1]
    assert (retraining["requests"], retraining["deletions"], retraining["s/deletion"]) == (0, 0, None)


def test_a_server_that_refuses_at_saturation_gives_no_figure(server: Recommender, asker: Asker) -> None:
    server.status = 503
    trial = Trial(server.server_port, Scorer(), asker, Floor(310, 2e9), max_tokens=4 * 310, plan=PLAN)
    with pytest.raises(ServingFailed, match="503"):
        trial.run(iter([]))


def test_a_line_counts_what_was_refused_and_what_failed() -> None:
    answers = [Answer(0.0, 0.0, seconds, status) for seconds, status in ((0.2, 200), (0.04, 429), (0.06, 503), (9, 0))]
    row = latency_row("300%", 100.0, 0.01, answers)
    assert (row["answered"], row["refused"], row["errors"], row["unanswered"]) == (1, 2, 1, 1)
    assert row["within 50 ms"] == 0.25
    assert row["floor ms"] == pytest.approx(10.0)
    assert row["most ms"] == 9_000


READY = """
import http.server, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


def test_a_server_runs_from_ready_until_the_block_ends(tmp_path: Path) -> None:
    port = free_port()
    with running([sys.executable, "-c", READY, str(port)], {}, port, tmp_path / "log"):
        socket.create_connection((serving.HOST, port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((serving.HOST, port))


def test_a_server_that_does_not_come_up_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    fails = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with pytest.raises(ServingFailed, match="no such model"), running(fails, {}, free_port(), tmp_path / "log"):
        pytest.fail("it is not running")


# With keys


@pytest.mark.thorough
def test_a_key_is_sent_to_the_server_that_wants_one_and_both_are_raced(asker: Asker, server: Recommender) -> None:
    with Recommender() as keyed:
        thread = threading.Thread(target=keyed.serve_forever, args=(0.01,))
        thread.start()
        doors = Door(server.server_address[1]), Door(keyed.server_address[1], "secret")
        throughput, latency = KeysTrial(*doors, asker, Floor(1, 1), 4, PLAN).run()
        keyed.shutdown()
        thread.join()
    assert set(server.keys) == {None}
    assert set(keyed.keys) == {"Bearer secret"}
    assert [row["contestant"] for row in throughput.rows] == [OPEN, KEYED]
    assert [row["load"] for row in latency.rows] == ["70%", "300%", "300%, refused"]
    assert latency.rows[0]["errors"] == 0


def test_half_of_the_people_leave_while_rows_of_others_come(server: Recommender) -> None:
    came: list[int] = []
    trial = SteadyDeletions(server.server_address[1], lambda: Live(1.0, 1.0), apart=0.05)
    [section] = trial.run(["u1", "u2", "u3"], lambda: came.append(len(server.forgotten)))
    assert [(row["beside"], row["deletions"]) for row in section.rows] == [("nothing", 2), ("full builds", 1)]
    assert came[0] >= 2  # nobody's row came before the first half had left


def test_people_leave_at_a_steady_rate_whether_or_not_the_one_before_is_forgotten(server: Recommender) -> None:
    shares = iter([1.0, 0.5])

    def look() -> Live:
        share = next(shares, 0.5)
        return Live(share, 2 * share - 1)

    server.forgetting = 1.0
    [section] = SteadyDeletions(server.server_address[1], look, apart=0.2).run(["u1", "u2", "u3"])
    [row] = section.rows

    assert list(server.forgotten) == ["u1", "u2", "u3"]
    first, _, last = server.forgotten.values()
    assert last - first < server.forgetting  # the last one came before the first one was done
    assert row["deletions"] == 3
    assert row["a minute"] == pytest.approx(300)
    assert 0.5 < row["adapters live"] < 1.0
    assert (row["least"], row["least of them"]) == (0.5, 0.0)
    assert row["p50 s"] > 0.9 * server.forgetting  # the two clocks begin a message apart

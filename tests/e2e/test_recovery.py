"""What is promised when processes die, files rot and an operator stops the service. The tests follow each other's state."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator

import psutil
import pytest

from .conftest import ALONE, BYSTANDER, OTHERS, TITLES, Installation, Server, eventually, is_alive

pytestmark = pytest.mark.thorough
GRACE = 15.0  # seconds that a worker whose server was killed may take to notice


def _forget_until_retraining(server: Server, user: str) -> str:
    request_id = str(server.post("/forget", {"user_id": user}).json()["request_id"])
    eventually(lambda: server.state_of(request_id)["state"] == "retraining", "the retraining has begun")
    return request_id


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _all_gone(processes: list[psutil.Process]) -> bool:
    return not any(map(is_alive, processes))


@pytest.fixture(scope="module")
def server(built: Installation) -> Iterator[Server]:
    with built.serving_ready() as running:
        yield running


def test_a_worker_that_is_killed_while_it_retrains_is_replaced_and_the_deletion_completed(
    server: Server, built: Installation
) -> None:
    request_id = _forget_until_retraining(server, OTHERS[1])
    worker = _family(server.worker())
    assert worker[0].nice() > psutil.Process(server.process.pid).nice()  # it yields to whoever answers
    worker[0].kill()
    done = server.completed(request_id)
    assert done["attempts"] >= 2
    assert done["error"] is None
    eventually(lambda: _all_gone(worker), "nothing of the killed worker is left", GRACE)
    assert '"event": "worker_ended", "status": -9' in built.log.read_text()
    assert built.run("verify").code == 0


def test_a_server_that_is_killed_takes_its_worker_along_and_the_next_one_completes_and_drains(
    server: Server, built: Installation
) -> None:
    request_id = _forget_until_retraining(server, OTHERS[2])
    worker = _family(server.worker())
    server.kill()
    eventually(lambda: _all_gone(worker), "the worker has followed its server", GRACE)
    assert [request["state"] for request in built.report("status")["owed"]] == ["retraining"]
    with built.serving_ready(afresh=True) as following:
        assert following.completed(request_id)["attempts"] >= 2
        _a_request_in_flight_is_answered_while_the_server_drains(following)
    assert built.report("status")["owed"] == []
    assert built.run("verify").code == 0


def _a_request_in_flight_is_answered_while_the_server_drains(server: Server) -> None:
    worker = _family(server.worker())
    body = json.dumps({"user_id": BYSTANDER, "candidates": TITLES}).encode()
    lines = (
        "POST /recommend HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    head = "\r\n".join((*lines, "", ""))
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode() + body[:10])
        # The server reads its connections in turn: an answer on another one means that the head has been read.
        assert server.answers()
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: _refuses_connections(server.port), "the server takes no new connections")
        connection.sendall(body[10:])
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"rank":1' in answer
    assert server.process.wait(60) == 0
    # The worker's own children end when it does, a moment later.
    eventually(lambda: _all_gone(worker), "nothing of the drained server's worker is left", GRACE)


def _refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_damaged_adapter_is_not_served_but_built_again_to_the_same_bytes(built: Installation) -> None:
    before, files = built.report("status"), built.adapter_files()
    digest = before["shards"][-1]["digest"]
    weights = built.home / "store" / "adapters" / digest / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with built.serving(ALONE) as server:
        refused = server.get("/readyz")
        assert refused.status_code == 503
        answer = server.post("/recommend", {"user_id": BYSTANDER})
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        with built.working():
            eventually(server.ready, "the worker has repaired what was damaged")
        assert server.get("/generation").json()["generation"] == before["generation"]
        assert server.recommend(user_id=BYSTANDER)["generation"] == before["generation"]
    after = built.adapter_files()
    assert _bytes_of(after) == _bytes_of(files)
    del after[digest], files[digest]
    assert after == files
    assert '"event": "not_ready", "reason": "adapter ' in built.log.read_text()


def _bytes_of(adapters: dict[str, dict[str, tuple[bytes, int]]]) -> dict[str, dict[str, bytes]]:
    return {digest: {name: content for name, (content, _) in files.items()} for digest, files in adapters.items()}

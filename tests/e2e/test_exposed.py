"""A server that is attacked, as a real process on a real socket: what `tests/attacks` can still do."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.attacks.erase_everybody import erase_everybody
from tests.attacks.greedy_client import greedy_client
from tests.attacks.large_heads import large_heads
from tests.attacks.slow_connections import slow_connections
from tests.attacks.target import Target
from tests.attacks.two_titles import two_titles

from .conftest import ALONE, BYSTANDER, Installation, Server


@pytest.fixture(scope="module")
def installation(copies: Callable[..., Installation]) -> Installation:
    return copies(LETHE_DELETIONS_PER_MINUTE="16", LETHE_MAX_CONNECTIONS_PER_ADDRESS="100", LETHE_REQUEST_TIMEOUT="3")


@pytest.fixture(scope="module")
def server(installation: Installation) -> Iterator[Server]:
    with installation.serving_ready(ALONE) as running:
        yield running


@pytest.fixture
def target(server: Server) -> Target:
    return Target("127.0.0.1", server.port, pid=server.process.pid)


def test_nobody_erases_everybody(target: Target) -> None:
    found = erase_everybody(target, 40)
    assert found["statuses"][202] in range(16, 20)  # a burst, and one every 3.75 s
    assert found["statuses"][202] + found["statuses"][429] == 40


def test_heads_without_an_end_are_cut_off_and_cost_no_memory(target: Target, server: Server) -> None:
    found = large_heads(target, megabytes=8)
    assert max(found["kilobytes_taken"].values()) < 8 * 1024, found
    assert found["memory_megabytes"] < 8, found
    refused = [line for line in server.get("/metrics").text.splitlines() if line.startswith("lethe_http_refused_total")]
    assert len(refused) >= 2, refused


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"b" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 50 + b"\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n", 200),
        (b"GET /generation HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n", 421),
    ],
)
def test_heads_have_bounds_and_names(target: Target, start: bytes, status: int) -> None:
    with target.connect() as connection:
        connection.sendall(start)
        connection.settimeout(10)
        answer = connection.recv(4096)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:80]


@pytest.mark.thorough
def test_a_head_that_does_not_come_is_waited_for_a_while(target: Target) -> None:
    with target.connect() as silent, target.connect() as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        for connection in (silent, slow):
            connection.settimeout(20)
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_connection_is_used_again_after_a_request(target: Target) -> None:
    with target.client() as client:
        assert [client.get("/healthz").status_code for _ in range(30)] == [200] * 30
    with target.connect() as connection:
        connection.settimeout(10)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)  # at once
        answered = b""
        while answered.count(b'{"status":"ok"}') < 3:
            answered += connection.recv(4096)


@pytest.mark.thorough
def test_health_is_answered_beside_thousands_of_slow_connections(target: Target) -> None:
    found = slow_connections(target, connections=300, seconds=5)
    assert found["failed"] == 0, found
    assert found["still_open"] <= 100, found


@pytest.mark.thorough
def test_one_greedy_client_costs_another_no_refusal(target: Target) -> None:
    found = greedy_client(target, connections=8, answers=80, rounds=2)
    assert list(found["others"]) == [200], found
    assert found["greedy"][200] > 0, found


def test_one_title_is_not_two(target: Target) -> None:
    assert two_titles(target)["exactly_equal"] is False


def test_a_request_that_would_cost_too_much_is_refused(server: Server) -> None:
    candidates = [f"{number} {'x z ' * 120}"[:490] for number in range(200)]
    refused = server.post("/recommend", {"history": {}, "candidates": candidates})
    assert (refused.status_code, refused.json()["type"]) == (413, "urn:lethe:problem:too-large")
    assert "x z" not in refused.text


def test_forwarded_addresses_are_believed_of_nobody(target: Target) -> None:
    erase_everybody(target, 20)
    with target.client() as client:
        spoofed = client.post("/forget", json={"user_id": "nobody"}, headers={"X-Forwarded-For": "203.0.113.9"})
    assert spoofed.status_code == 429


def test_beyond_loopback_nothing_starts_without_a_key(copies: Callable[..., Installation]) -> None:
    refused = copies().run("serve", "--host", "0.0.0.0", "--port", "1", ALONE)
    assert refused.code == 1
    assert "lethe keys create" in refused.err
    assert "Traceback" not in refused.err


def test_a_key_from_the_command_line_opens_a_server_beyond_loopback_until_it_is_revoked(
    copies: Callable[..., Installation],
) -> None:
    installation = copies(WEB_CONCURRENCY="4", FORWARDED_ALLOW_IPS="*")
    file = installation.folder / "key"
    made = installation.report("keys", "create", "--name", "shop", "--scopes", "recommend,forget", "--to", str(file))
    key = file.read_text()
    assert os.stat(file).st_mode & 0o077 == 0
    assert key not in str(made)
    with installation.serving_ready("--host", "0.0.0.0", ALONE) as server:
        own = {"Authorization": f"Bearer {key}"}
        assert server.post("/recommend", {"user_id": BYSTANDER}).status_code == 401
        assert server.post("/recommend", {"user_id": BYSTANDER, "top_k": 2}, **own).status_code == 200
        assert server.client.get("/metrics", headers=own).status_code == 403
        accepted = server.post("/forget", {"user_id": "nobody"}, **own)
        assert accepted.json().keys() == {"request_id", "state", "accepted_at"}
        with ThreadPoolExecutor(8) as threads:
            asked = list(
                threads.map(lambda _: server.post("/recommend", {"history": {}}, **own).status_code, range(32))
            )
        assert asked == [200] * 32
        (listed,) = installation.report("keys", "list")["keys"]
        assert (listed["state"], listed["last_used_at"] is None) == ("live", False)
        installation.report("keys", "revoke", made["key_id"])
        assert server.post("/recommend", {"user_id": BYSTANDER}, **own).status_code == 401
    told = installation.report("audit")["entries"]
    assert [entry["action"] for entry in told] == [
        "key.create", "GET /metrics", "forget", "forget.complete", "key.revoke",
    ]  # fmt: skip
    assert {entry["address"] for entry in told} == {None, "127.0.0.1"}
    assert installation.report("audit", "--verify")["sound"] is True
    assert key.split("_", 2)[2] not in installation.log.read_text()


def test_health_needs_no_key_and_nothing_else_is_public(server: Server) -> None:
    assert isinstance(server.client, httpx.Client)
    assert [server.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    with socket.create_connection(("127.0.0.1", server.port)) as probe:
        probe.sendall(b"OPTIONS * HTTP/1.0\r\n\r\n")
        probe.settimeout(10)
        assert not probe.recv(100).startswith(b"HTTP/1.1 2")

"""Bells wake, locks exclude, and an absent Redis makes things later but never wrong."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from service.errors import InvalidSetting
from service.forgetting.bell import LOCK, Bell, PollingBell, RedisBell, open_bell

pytestmark = pytest.mark.thorough

REPOSITORY = Path(__file__).resolve().parents[2]
LONG = 20.0  # seconds; a wait that ends sooner was woken
SOON = 5.0


class Server:
    """A Redis that a test may stop and start again on the same port."""

    def __init__(self, executable: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [executable, "--port", str(self.port), "--save", "", "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        eventually(self._answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture
def server(redis_url: str, tmp_path: Path) -> Iterator[Server]:
    with redis.Redis.from_url(redis_url) as client:
        executable = client.info("server")["executable"]
    server = Server(executable, tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def polling(tmp_path: Path) -> PollingBell:
    return PollingBell(tmp_path / "lock", interval=LONG)


@pytest.fixture
def redis_bell(redis_url: str) -> Iterator[RedisBell]:
    bell = RedisBell(redis_url)
    listen(bell)
    yield bell
    bell.close()


@pytest.fixture(params=["polling", "redis_bell"])
def bell(request: pytest.FixtureRequest) -> Bell:
    chosen: Bell = request.getfixturevalue(request.param)
    return chosen


def listen(bell: RedisBell) -> None:
    """Wait until the bell hears Redis, and use up the ring that this counts as."""
    assert bell.wait(LONG)


class Waiter:
    """A thread in `wait`, with what it returned and after how many seconds."""

    def __init__(self, bell: Bell, timeout: float = LONG) -> None:
        self.rang: bool | None = None
        self.seconds = 0.0
        self._bell, self._timeout = bell, timeout
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()
        time.sleep(0.1)

    def _wait(self) -> None:
        # A thread's first wait also hears what rang before it was born.
        self._bell.wait(0)
        began = time.monotonic()
        self.rang = self._bell.wait(self._timeout)
        self.seconds = time.monotonic() - began

    def join(self) -> None:
        self._thread.join(LONG)
        assert not self._thread.is_alive()


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


# Ringing


def test_a_ring_wakes_every_waiting_thread(bell: Bell) -> None:
    waiters = [Waiter(bell), Waiter(bell)]
    bell.ring()
    for waiter in waiters:
        waiter.join()
        assert waiter.rang
        assert waiter.seconds < SOON


def test_without_a_ring_a_wait_ends_with_its_timeout(bell: Bell) -> None:
    bell.wait(0)
    began = time.monotonic()
    assert not bell.wait(0.2)
    assert 0.15 < time.monotonic() - began < SOON


def test_a_ring_between_two_waits_is_not_lost(bell: Bell) -> None:
    bell.wait(0)
    bell.ring()
    assert bell.wait(LONG)
    assert not bell.wait(0)


def test_closing_wakes_who_waits(bell: Bell) -> None:
    waiter = Waiter(bell)
    bell.close()
    waiter.join()
    assert waiter.seconds < SOON


def test_polling_never_waits_longer_than_its_interval(tmp_path: Path) -> None:
    bell = PollingBell(tmp_path / "lock", interval=0.05)
    began = time.monotonic()
    assert not bell.wait(LONG)
    assert time.monotonic() - began < SOON


RINGS = """
import sys
from service.forgetting.bell import RedisBell
bell = RedisBell(sys.argv[1])
bell.ring()
bell.close()
"""


def test_a_ring_wakes_another_process(redis_url: str, redis_bell: RedisBell) -> None:
    waiter = Waiter(redis_bell, timeout=2 * LONG)
    ringer = python(RINGS, redis_url)
    ringer.communicate(timeout=LONG)
    waiter.join()
    assert ringer.returncode == 0
    assert waiter.rang


def test_the_first_wait_hears_what_rang_before_it_was_listening(redis_url: str) -> None:
    bell = RedisBell(redis_url)
    bell.ring()
    assert bell.wait(LONG)
    bell.close()


# Redis in trouble


def test_a_wait_returns_when_redis_is_killed(server: Server) -> None:
    bell = RedisBell(server.url, fallback_interval=0.1)
    listen(bell)
    waiter = Waiter(bell)
    server.kill()
    waiter.join()
    assert waiter.seconds < SOON
    bell.close()


def test_without_redis_waiting_degrades_to_polling_and_threads_still_wake_each_other(server: Server) -> None:
    server.kill()
    bell = RedisBell(server.url, fallback_interval=0.1)
    bell.ring()
    assert bell.wait(LONG)
    eventually(lambda: not bell.wait(LONG))
    bell.ring()
    assert bell.wait(0)
    bell.close()


def test_when_redis_is_back_rings_arrive_again(server: Server) -> None:
    bell, other = RedisBell(server.url, fallback_interval=0.05), RedisBell(server.url)
    listen(bell)
    other.ring()
    server.kill()
    bell.ring()
    server.start()
    eventually(bell._listening.is_set)
    eventually(lambda: not bell.wait(0.3))
    other.ring()
    assert bell.wait(LONG)
    bell.close()
    other.close()


def test_an_outage_is_logged_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    bell = RedisBell(server.url, fallback_interval=0.05)
    with caplog.at_level(logging.INFO, "service.forgetting.bell"):
        server.kill()
        for _ in range(3):
            bell.ring()
        server.start()
        bell.ring()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    bell.close()


def test_a_redis_that_does_not_answer_holds_nobody_up_for_long(server: Server) -> None:
    bell = RedisBell(server.url)
    listen(bell)
    server.freeze()
    began = time.monotonic()
    bell.ring()
    with bell.courtesy_lock() as got:
        assert got
    assert time.monotonic() - began < 2 * SOON
    bell.close()


def test_a_flush_disturbs_nobody(redis_url: str, redis_bell: RedisBell) -> None:
    waiter = Waiter(redis_bell)
    with redis.Redis.from_url(redis_url) as client, redis_bell.courtesy_lock() as got:
        assert got
        client.flushall()
    redis_bell.ring()
    waiter.join()
    assert waiter.rang


def test_what_is_no_redis_url_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidSetting) as refused:
        RedisBell("http://:secret@host")
    assert "secret" not in str(refused.value)


# The courtesy lock


def test_the_lock_excludes_a_second_holder_and_is_given_back(bell: Bell) -> None:
    for _ in range(2):
        with bell.courtesy_lock() as first:
            assert first
            with bell.courtesy_lock() as second:
                assert not second


def test_the_lock_is_given_back_after_an_exception(bell: Bell) -> None:
    with pytest.raises(ZeroDivisionError), bell.courtesy_lock():
        raise ZeroDivisionError
    with bell.courtesy_lock() as got:
        assert got


HOLDS = """
import sys
from functools import partial
from pathlib import Path
from service.forgetting.bell import PollingBell, RedisBell
where = sys.argv[1]
bell = RedisBell(where, lock_seconds=1) if where.startswith("redis") else PollingBell(Path(where))
with bell.courtesy_lock() as got:
    print(got, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["polling", "redis"])
def test_the_lock_of_a_dead_process_is_free_again(kind: str, redis_url: str, tmp_path: Path) -> None:
    where = redis_url if kind == "redis" else str(tmp_path / "lock")
    bell = open_bell(redis_url if kind == "redis" else None, tmp_path / "lock")
    with python(HOLDS, where) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert not tried(bell)
        holder.kill()
    eventually(lambda: tried(bell))
    bell.close()


def tried(bell: Bell) -> bool:
    with bell.courtesy_lock() as got:
        return got


def test_the_lock_is_renewed_while_its_holder_lives(redis_url: str) -> None:
    holder, other = RedisBell(redis_url, lock_seconds=0.3), RedisBell(redis_url)
    with holder.courtesy_lock() as got:
        assert got
        time.sleep(1)
        assert not tried(other)
    assert tried(other)
    holder.close()
    other.close()


def test_a_holder_that_lost_its_lock_does_not_take_it_from_the_next(redis_url: str) -> None:
    first, second, third = (RedisBell(redis_url) for _ in range(3))
    with redis.Redis.from_url(redis_url) as client, first.courtesy_lock():
        client.flushall()
        lock = second.courtesy_lock()
        assert lock.__enter__()
    assert not tried(third)
    lock.__exit__(None, None, None)
    assert tried(third)
    for bell in (first, second, third):
        bell.close()


def test_without_redis_everybody_gets_the_lock(server: Server) -> None:
    bell = RedisBell(server.url)
    with bell.courtesy_lock() as got:
        assert got
        server.kill()
    with bell.courtesy_lock() as got:
        assert got
    bell.close()


@pytest.mark.parametrize("expires_in", [None, 3600])
@pytest.mark.parametrize("kind", ["text", "list"])
def test_what_is_no_lock_of_ours_is_waited_for_no_longer_than_a_lock_lives(
    server: Server, caplog: pytest.LogCaptureFixture, expires_in: int | None, kind: str
) -> None:
    bell = RedisBell(server.url, lock_seconds=0.4)
    with redis.Redis.from_url(server.url) as client:
        client.set(LOCK, b"of another program") if kind == "text" else client.rpush(LOCK, b"of another program")
        if expires_in is not None:
            client.expire(LOCK, expires_in)
        began = time.monotonic()
        assert not tried(bell)
        eventually(lambda: tried(bell))
        assert 0.4 <= time.monotonic() - began < SOON
        assert tried(bell)
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert "no lock of Lethe's" in caplog.text
        client.delete(LOCK)
        assert tried(bell)
        client.set(LOCK, b"once more")
        assert not tried(bell)
    bell.close()


def test_a_holder_that_lives_is_waited_for_with_patience_but_not_for_ever(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs: list[tuple[Bell, Bell]] = [
        (RedisBell(redis_url), RedisBell(redis_url, patience=0.3)),
        (PollingBell(tmp_path / "lock"), PollingBell(tmp_path / "lock", patience=0.3)),
    ]
    for holder, other in pairs:
        caplog.clear()
        with holder.courtesy_lock():
            began = time.monotonic()
            assert not tried(other)
            eventually(partial(tried, other))
            assert 0.3 <= time.monotonic() - began < SOON
            assert not tried(other)  # one pass without the lock; then it is waited for again
            assert "going on without the courtesy lock" in caplog.text
        assert tried(other)
        holder.close()
        other.close()


def test_without_a_lock_file_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with PollingBell(tmp_path / "file" / "lock").courtesy_lock() as got:
        assert got


def test_a_url_decides_which_bell_is_opened(redis_url: str, tmp_path: Path) -> None:
    assert isinstance(open_bell(None, tmp_path / "lock"), PollingBell)
    bell = open_bell(redis_url, tmp_path / "lock")
    assert isinstance(bell, RedisBell)
    bell.close()

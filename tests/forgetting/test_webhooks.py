"""Notifications: signed, at least once, bounded in time, and never to an address that was not looked at."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.errors import LedgerUnavailable, NotDelivered
from service.forgetting.posting import Receiver, is_public
from service.forgetting.webhooks import GIVE_UP_SECONDS, WebhookSender, signature
from service.ledger import Ledger, OutboxEvent
from tests.listening import Heard, listening

KEY = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
SECRET = b"a secret of the tests"
DUE = 30 * 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite", SECRET, clock, announces=True) as opened:
        yield opened


def sender(ledger: Ledger, url: str, clock: Clock, seconds: float = 5.0) -> WebhookSender:
    return WebhookSender(ledger.outbox, Receiver(url, True, seconds), KEY, DUE, clock, lambda: 1.0)


def verified(heard: Heard) -> str:
    """The id of the event, if the signature holds: what a receiver does (Standard Webhooks, "Verifying signatures")."""
    name, at = heard.headers["webhook-id"], heard.headers["webhook-timestamp"]
    signed = hmac.new(KEY, f"{name}.{at}.".encode() + heard.body, hashlib.sha256).digest()
    assert heard.headers["webhook-signature"] == f"v1,{base64.b64encode(signed).decode()}"
    return name


# What is told, and by whom


def test_the_signature_is_that_of_the_published_example() -> None:
    """Of Standard Webhooks' own test vectors, with the secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw."""
    found = signature(KEY, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_notification_tells_request_state_and_times_and_nobody(ledger: Ledger, clock: Clock) -> None:
    with listening() as listener:
        request = ledger.forget("ann", None, None).request
        assert sender(ledger, listener.url(), clock).deliver_one()
    [heard] = listener.heard
    assert heard.content == {
        "id": f"{request.request_id}-masked",
        "type": "forget.masked",
        "timestamp": "2027-01-15T08:00:00.000Z",
        "data": {
            "request_id": request.request_id,
            "state": "masked",
            "accepted_at": "2027-01-15T08:00:00.000Z",
            "due_at": "2027-02-14T08:00:00.000Z",
        },
    }
    assert verified(heard) == heard.content["id"]
    assert b"ann" not in heard.body
    assert not any(subject.encode() in heard.body for subject in ledger.subjects("ann"))
    assert ledger.outbox.counts().delivered == 1


# At least once


def test_a_receiver_that_dies_before_it_answers_gets_it_again_with_the_same_id(ledger: Ledger, clock: Clock) -> None:
    seen: list[Heard] = []

    def die(heard: Heard) -> int:
        seen.append(heard)
        raise ConnectionAbortedError

    ledger.forget("ann", None, None)
    with listening(die) as listener:
        assert sender(ledger, listener.url(), clock).deliver_one()
    assert sender(ledger, listener.url(), clock).deliver_one() is False  # it waits
    clock.now += 5.0
    assert sender(ledger, listener.url(), clock).deliver_one()  # nobody is there at all
    clock.now += 10.0
    with listening(port=listener.port) as back:
        assert sender(ledger, back.url(), clock).deliver_one()
    assert verified(back.heard[0]) == verified(seen[0])
    assert back.heard[0].body == seen[0].body
    assert ledger.outbox.counts().delivered == 1


def test_a_worker_that_dies_while_it_delivers_loses_nothing(ledger: Ledger, clock: Clock) -> None:
    ledger.forget("ann", None, None)
    assert ledger.outbox.claim(120.0) is not None  # and is never heard of again
    with listening() as listener:
        other = sender(ledger, listener.url(), clock)
        assert other.deliver_one() is False
        clock.now += 120.0
        assert other.deliver_one()
    assert len(listener.heard) == 1


def test_of_two_workers_none_loses_an_event_and_none_sends_what_the_other_sent(ledger: Ledger, clock: Clock) -> None:
    ids = {ledger.forget(f"nobody-{number}", None, None).request.request_id for number in range(12)}
    with listening() as listener:
        workers = [sender(ledger, listener.url(), clock) for _ in range(2)]
        threads = [threading.Thread(target=drain, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    told = [heard.content["data"]["request_id"] for heard in listener.heard]
    assert (len(told), set(told)) == (12, ids)


def drain(worker: WebhookSender) -> None:
    while worker.deliver_one():
        pass


class Once:
    """An outbox with one event; it notes what became of it."""

    def __init__(self, event: OutboxEvent) -> None:
        self.event = event
        self.pauses: list[float | None] = []

    def claim(self, lease: float) -> OutboxEvent:
        return self.event

    def note_delivered(self, event: OutboxEvent) -> None:
        raise AssertionError

    def note_failed(self, event: OutboxEvent, retry_in: float | None) -> None:
        self.pauses.append(retry_in)


class Away:
    def post(self, body: bytes, headers: object) -> None:
        raise NotDelivered("the receiver is away")


def pause(attempts: int, chance: float = 0.0, age: float = 0.0) -> float | None:
    event = OutboxEvent("r", "masked", 1_000.0, 1_000.0, 1_000.0, attempts)
    outbox = Once(event)
    assert WebhookSender(outbox, Away(), KEY, DUE, lambda: 1_000.0 + age, lambda: chance).deliver_one()
    return outbox.pauses[0]


def test_pauses_double_up_to_an_hour_with_jitter_and_end_after_three_days() -> None:
    assert [pause(attempts, 1.0) for attempts in (1, 2, 3, 4)] == [5.0, 10.0, 20.0, 40.0]
    assert [pause(1, chance) for chance in (0.0, 0.5)] == [2.5, 3.75]
    assert pause(500, 1.0) == 3_600.0
    assert pause(80, 1.0, GIVE_UP_SECONDS - 3_600.0) == 3_600.0
    assert pause(80, 1.0, GIVE_UP_SECONDS - 3_599.0) is None


class Halting:
    """An outbox that cannot be asked at first, in ways foreseen and not, and then ends the work."""

    def __init__(self) -> None:
        self.failures: list[Exception] = [LedgerUnavailable("asleep"), UnicodeError("a label too long")]
        self.asked = 0

    def claim(self, lease: float) -> OutboxEvent | None:
        self.asked += 1
        if self.failures:
            raise self.failures.pop()
        return None

    def note_delivered(self, event: OutboxEvent) -> None:
        raise AssertionError

    def note_failed(self, event: OutboxEvent, retry_in: float | None) -> None:
        raise AssertionError


class ThirdTime:
    """Asks to stop after the third look."""

    def __init__(self) -> None:
        self.waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        return self.waits == 3


def test_whatever_fails_delivery_goes_on() -> None:
    outbox = Halting()
    WebhookSender(outbox, Away(), KEY, DUE, time.time).run(ThirdTime())
    assert outbox.asked == 3


# Bounds


@pytest.mark.parametrize("status", [302, 400, 404, 410, 500, 503])
def test_every_answer_but_2xx_is_a_failure_and_redirects_are_not_followed(status: int) -> None:
    with listening(lambda _: status) as listener, pytest.raises(NotDelivered, match=f"answered {status}"):
        Receiver(listener.url(), True, 5.0).post(b"{}", {})
    assert len(listener.heard) == 1


@contextmanager
def trickling(interval: float) -> Iterator[int]:
    """A server that answers without an end, a byte at a time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stopped = threading.Event()

        def answer() -> None:
            with server.accept()[0] as connection:
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\n")
                    while not stopped.wait(interval):
                        connection.sendall(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=answer)
        thread.start()
        yield int(server.getsockname()[1])
        stopped.set()
        thread.join()


def test_a_receiver_that_answers_a_byte_at_a_time_is_left_after_its_time() -> None:
    began = time.monotonic()
    with trickling(0.05) as port, pytest.raises(NotDelivered):
        Receiver(f"http://127.0.0.1:{port}/", True, 0.4).post(b"{}", {})
    assert time.monotonic() - began < 5.0


def test_a_receiver_that_never_answers_holds_up_no_deletion(ledger: Ledger, clock: Clock) -> None:
    release, asked = threading.Event(), threading.Event()

    def wait(_: Heard) -> int:
        asked.set()
        release.wait(30.0)
        return 200

    with listening(wait) as listener:
        ledger.forget("ann", None, None)
        delivering = threading.Thread(target=sender(ledger, listener.url(), clock, 30.0).deliver_one)
        delivering.start()
        assert asked.wait(10.0)
        other = ledger.forget("bob", None, None).request
        ledger.complete(other.request_id, "receipt", clock.now)
        assert ledger.request(other.request_id).state == "completed"
        assert ledger.outbox.counts().delivered == 0  # the receiver still thinks
        release.set()
        delivering.join()
    assert ledger.outbox.counts().delivered == 1


# Where nothing is sent


PRIVATE = (
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_internet_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "0177.0.0.1"])
def test_nothing_is_sent_to_this_machine_however_it_is_spelled(host: str) -> None:
    with listening() as listener, pytest.raises(NotDelivered):
        Receiver(f"http://{host}:{listener.port}/", False, 5.0).post(b"{}", {})
    assert listener.heard == []


def test_a_name_that_means_another_machine_when_it_is_asked_again_is_asked_once() -> None:
    """DNS rebinding: a public address for whoever checks, a private one for whoever connects."""
    with listening() as listener:
        answers = iter([["127.0.0.1"]])
        rebound = Receiver(f"http://hooks.example:{listener.port}/", False, 5.0, lambda *_: next(answers))
        with pytest.raises(NotDelivered, match="no public address"):
            rebound.post(b"{}", {})
        assert listener.heard == []
        once = iter([["127.0.0.1"]])  # who asked a second time would find no answer
        Receiver(f"http://hooks.example:{listener.port}/", True, 5.0, lambda *_: next(once)).post(b"{}", {})
        assert listener.heard[0].headers["host"] == f"hooks.example:{listener.port}"


def test_an_address_that_is_refused_is_not_told() -> None:
    with listening() as listener:
        receiver = Receiver(f"http://hooks.example:{listener.port}/", False, 1.0, lambda *_: ["127.0.0.1", "::1"])
        with pytest.raises(NotDelivered) as refused:
            receiver.post(b"{}", {})
    assert "127.0.0.1" not in str(refused.value)
    assert listener.heard == []


def test_a_name_that_nobody_knows_is_a_failure_like_another() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with pytest.raises(NotDelivered, match="gaierror"):
        Receiver("https://hooks.example/", False, 1.0, unknown).post(b"{}", {})

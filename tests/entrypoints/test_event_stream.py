"""Events from a real Redis: taken once however often they are delivered, and acknowledged when they are in the ledger."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from service.config import load_settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.main import app
from service.entrypoints.event_stream import Entry, EventStream, StreamConsumer, open_stream
from service.errors import InvalidSetting, LedgerUnavailable
from service.records import Item
from tests.e2e.conftest import eventually
from tests.forks import Forks, Stuck

GROUP = "lethe"
Consumers = Callable[..., EventStream]


class Stream:
    """A stream of its own, as a producer and an operator see it."""

    def __init__(self, url: str) -> None:
        self.url, self.name = url, f"events-{uuid.uuid4().hex}"
        self._redis: Any = redis.Redis.from_url(url)

    def add(self, *rows: str, field: str = "row") -> list[str]:
        return [self._redis.xadd(self.name, {field: row}).decode() for row in rows]

    def pending(self) -> int:
        return int(self._redis.xpending(self.name, GROUP)["pending"])

    def undelivered(self) -> bool:
        [group] = self._redis.xinfo_groups(self.name)
        [(last, _)] = self._redis.xrevrange(self.name, count=1) or [(b"0-0", {})]
        return bool(group["last-delivered-id"] != last)

    def length(self) -> int:
        return int(self._redis.xlen(self.name))

    def lose(self) -> None:
        self._redis.delete(self.name)

    def close(self) -> None:
        self._redis.close()


@pytest.fixture
def stream(redis_url: str) -> Iterator[Stream]:
    made = Stream(redis_url)
    yield made
    made.close()


@pytest.fixture
def consumers(stream: Stream) -> Iterator[Consumers]:
    opened: list[EventStream] = []

    def consumer(name: str = "one", claim_seconds: float = 60.0) -> EventStream:
        opened.append(open_stream(stream.url, stream.name, GROUP, name, claim_seconds))
        return opened[-1]

    yield consumer
    for one in opened:
        one.close()


def line(item: str, **fields: Any) -> str:
    return json.dumps({"user_id": "ann", "item_id": item, "liked": True, **fields})


def rows_of(entries: Sequence[Entry]) -> list[bytes | None]:
    return [entry.row for entry in entries]


def test_entries_come_in_order_and_not_again_once_they_are_acknowledged(stream: Stream, consumers: Consumers) -> None:
    stream.add("a", "b", "c")
    one = consumers()
    first = one.read(2)
    assert rows_of(first) == [b"a", b"b"]
    one.acknowledge(first, remove=False)
    assert (stream.pending(), stream.length()) == (0, 3)
    rest = one.read(2)
    one.acknowledge(rest, remove=True)
    assert (rows_of(rest), stream.pending(), stream.length()) == ([b"c"], 0, 2)


def test_what_was_not_acknowledged_is_delivered_again_after_a_restart(stream: Stream, consumers: Consumers) -> None:
    stream.add("a", "b")
    before = consumers().read(10)
    stream.add("c")
    again = consumers()
    assert again.read(10) == before
    assert rows_of(again.read(10)) == [b"c"]


def test_what_a_dead_consumer_left_is_taken_over_and_from_a_living_one_nothing_is(
    stream: Stream, consumers: Consumers
) -> None:
    stream.add("a", "b")
    left = consumers("dead").read(10)
    stream.add("c")
    assert rows_of(consumers("patient").read(10)) == [b"c"]
    assert consumers("heir", claim_seconds=0.0).read(10)[:2] == left


def test_an_entry_that_has_no_row_or_is_gone_holds_up_nobody(stream: Stream, consumers: Consumers) -> None:
    stream.add("a", field="json")
    stream.add("b")
    one = consumers()
    found = one.read(10)
    assert rows_of(found) == [None, b"b"]
    one.acknowledge(found[:1], remove=False)
    stream.lose()
    stream.add("c")
    assert one.read(10) == []  # the group went with the stream
    assert rows_of(one.read(10)) == [b"c"]


def test_events_of_two_streams_or_entries_have_ids_of_their_own(stream: Stream, consumers: Consumers) -> None:
    one, other = consumers(), open_stream(stream.url, "another", GROUP, "one", 60)
    first, second = Entry("1-1", b""), Entry("1-2", b"")
    assert len({one.event_id(first), one.event_id(second), other.event_id(first)}) == 3
    other.close()


def test_no_redis_and_no_redis_url_are_said() -> None:
    for url in (None, "http://nowhere"):
        with pytest.raises(InvalidSetting, match="LETHE_STREAM_URL"):
            open_stream(url, "events", GROUP, "one", 60)


@pytest.mark.thorough
def test_a_ledger_that_is_away_is_waited_for_and_nothing_is_acknowledged_meanwhile(
    stream: Stream, consumers: Consumers
) -> None:
    stream.add(*"abcde")
    stop, seen, pending = threading.Event(), list[bytes | None](), list[int]()

    def take(entries: Sequence[Entry]) -> Counter[str]:
        pending.append(stream.pending())
        if len(pending) < 3:
            raise LedgerUnavailable("it is away")
        seen.extend(rows_of(entries))
        return Counter(new=len(entries))

    consumer = StreamConsumer(consumers(), take, stop, 5, remove=False)
    found: list[Counter[str]] = []
    thread = threading.Thread(target=lambda: found.append(consumer.run()))
    thread.start()
    eventually(lambda: seen and not stream.pending(), "everything is acknowledged")
    stop.set()
    thread.join()
    assert pending == [5, 5, 5]
    assert seen == [b"a", b"b", b"c", b"d", b"e"]
    assert found == [Counter(new=5)]


# The command, as a process


class Ingesting:
    """`lethe ingest --stream` on an installation that has a catalog."""

    def __init__(self, folder: Path, stream: Stream, forks: Forks) -> None:
        self.home, self._stream, self._forks = folder / "home", stream, forks
        self.out, self.log, self.armed = folder / "out", folder / "log", folder / "armed"
        opened = self._opened()
        opened.ledger.import_data([Item(f"i{n}", f"Film {n}") for n in range(4)], [], "movie")
        opened.ledger.close()
        self._environment = {"LETHE_HOME": str(self.home), "LETHE_STREAM_URL": stream.url, "PATH": "/usr/bin:/bin"}

    def begin(self, *options: str) -> Any:
        for file in (self.out, self.log):
            file.write_bytes(b"")
        arguments = ["ingest", "--stream", self._stream.name, "--consumer", "one", "--json", *options]
        return self._forks.begin(arguments, self._environment, self.out, self.log, self.armed)

    def held(self, user: str = "ann") -> set[str]:
        opened = self._opened()
        held = {row.item_id for row in opened.ledger.export(user).rows}
        opened.ledger.close()
        return held

    def report(self) -> dict[str, int]:
        return dict(json.loads(self.out.read_text()))

    def _opened(self) -> Home:
        return Home.open(load_settings(home=self.home))


@pytest.fixture
def ingesting(tmp_path: Path, stream: Stream, forks: Forks) -> Ingesting:
    return Ingesting(tmp_path, stream, forks)


def drained(stream: Stream) -> None:
    eventually(lambda: not stream.undelivered() and not stream.pending(), "everything is acknowledged")


@pytest.mark.thorough
def test_a_stream_is_read_until_the_process_is_told_to_end(stream: Stream, ingesting: Ingesting) -> None:
    secret = "a-person-who-is-malformed"
    stream.add(line("i0"), line("i1", rating=5), line("nowhere"), f'{{"user_id": "{secret}"}}', "no json")
    process = ingesting.begin("--remove")
    eventually(lambda: stream.length() == 0, "everything is taken")
    stream.add(line("i2"))
    eventually(lambda: stream.length() == 0, "what came later is taken, too")
    process.send_signal(15)
    assert process.wait() == 0
    assert ingesting.report() == {"malformed": 2, "new": 3, "unknown_item": 1}
    assert ingesting.held() == {"i0", "i1", "i2"}
    told = ingesting.log.read_text()
    assert told.count("stream_entry_malformed") == 2
    assert secret not in told


@pytest.mark.thorough
def test_killed_between_commit_and_acknowledgment_it_is_delivered_again_and_the_rows_are_there_once(
    stream: Stream, ingesting: Ingesting
) -> None:
    ingesting.armed.write_text("ingest.taken 1")
    stream.add(line("i0"), line("i1"))
    assert ingesting.begin().wait() == -9
    assert ingesting.held() == {"i0", "i1"}
    assert stream.pending() == 2
    process = ingesting.begin()
    drained(stream)
    process.send_signal(15)
    assert process.wait() == 0
    assert ingesting.report() == {"duplicate": 2}
    assert ingesting.held() == {"i0", "i1"}


@pytest.mark.thorough
def test_a_redis_that_is_not_there_is_waited_for_until_the_process_is_told_to_end(
    tmp_path: Path, stream: Stream, forks: Forks
) -> None:
    stream.url = "redis://127.0.0.1:1/0"
    ingesting = Ingesting(tmp_path, stream, forks)
    process = ingesting.begin()
    eventually(lambda: "ingest_waits" in ingesting.log.read_text(), "it is waited for")
    with pytest.raises(Stuck):
        process.wait(0.2)
    process.send_signal(15)
    assert process.wait() == 0
    assert ingesting.report() == {"entries": 0}


def test_a_file_and_a_stream_are_not_read_at_once(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["ingest", "file", "--stream", "s", "--home", str(tmp_path / "home")])
    assert done.exit_code != 0

"""Rows a second into the ledger: through `POST /interactions` and beneath it, beside what the database takes at best.

The floor is the database's own: the same five columns of as many rows with the same key, written by its driver alone, one
statement and one transaction a batch, into a table of nothing else. Whatever recognizes tombstones, events that were sent
before and newer rows comes on top of it.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx
import numpy as np
import psycopg

from research.benchmarks.report import Section
from service.building.progress import Progress
from service.ledger import Event, Ledger
from service.records import Interaction, Item

_SECRET = b"a secret of the benchmark"
_COLUMNS = "user_id, item_id, liked, timestamp, rating"
_FLOOR_TABLE = "bench_floor"

Row = tuple[str, str, bool, int, None]
AppOf = Callable[[Ledger], Any]  # the HTTP application over a ledger


@dataclass(frozen=True, slots=True)
class Stream:
    """Events of made-up people, the same ones every time: any of them does something next with any item."""

    people: int
    items: int
    batch: int
    seed: int = 0

    def batches(self, prefix: str) -> Iterator[list[Row]]:
        """Without end; times grow, so every row is newer than what is held. `prefix` keeps the people of contestants apart."""
        rng, time = np.random.default_rng(self.seed), 1_000_000_000
        while True:
            people, items = rng.integers(0, self.people, self.batch), rng.integers(0, self.items, self.batch)
            liked = rng.random(self.batch) < 0.7
            yield [
                (f"{prefix}-{person}", f"item-{item:06}", bool(like), time + n, None)
                for n, (person, item, like) in enumerate(zip(people.tolist(), items.tolist(), liked, strict=True))
            ]
            time += self.batch


class IngestionBench:
    """One ledger, and all ways into it in turns."""

    def __init__(self, ledger: Ledger, app_of: AppOf, at: Path | str, stream: Stream, progress: Progress) -> None:
        """`at` is where the floor's table is made: a folder for an SQLite file of its own, or PostgreSQL's URL."""
        self._ledger, self._app, self._stream, self._progress = ledger, app_of(ledger), stream, progress
        self._at = at
        self._sent = 0

    def run(self, rounds: int) -> list[Section]:
        """Rows a second of each way: the median over the rounds, with the least and the most."""
        catalog = [Item(f"item-{n:06}", f"Film {n}") for n in range(self._stream.items)]
        self._ledger.import_data(catalog, [], "movie")
        self._ledger.advance_horizon()  # a generation is served, so that what comes lies beyond the horizon
        with floor_writer(self._at) as write:
            ways = {
                "the database alone": write,
                "Ledger.take_events": self._take,
                "with event ids": self._take_known,
                "POST /interactions": self._post,
            }
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            batches = {name: self._stream.batches(f"person-{n}") for n, name in enumerate(ways)}
            self._progress.phase("streaming in", rounds)
            for _ in range(rounds):
                for name, way in ways.items():
                    rows = next(batches[name])
                    began = perf_counter()
                    way(rows)
                    seconds[name].append(perf_counter() - began)
                self._progress.advance(1)
        return [self._section(seconds)]

    def _take(self, rows: list[Row]) -> None:
        self._ledger.take_events([Event(Interaction(*row)) for row in rows])

    def _take_known(self, rows: list[Row]) -> None:
        self._sent += 1
        self._ledger.take_events([Event(Interaction(*row), f"e-{self._sent}-{n}") for n, row in enumerate(rows)])

    def _post(self, rows: list[Row]) -> None:
        said = [{"user_id": u, "item_id": i, "liked": liked, "timestamp": time} for u, i, liked, time, _ in rows]
        answer = asyncio.run(_posted(self._app, json.dumps({"interactions": said}).encode()))
        if answer.status_code != 200 or answer.json()["taken"] < len(rows) // 2:
            raise RuntimeError(f"the batch was not taken: {answer.status_code}")

    def _section(self, seconds: dict[str, list[float]]) -> Section:
        floor = median(seconds["the database alone"])
        rows = tuple(
            {
                "way": name,
                "rows/s": self._stream.batch / median(took),
                "least": self._stream.batch / max(took),
                "most": self._stream.batch / min(took),
                "x floor": floor / median(took),
            }
            for name, took in seconds.items()
        )
        notes = (
            f"batches of {self._stream.batch:,} rows, each one transaction; {len(seconds['with event ids'])} rounds in turns",
            "POST /interactions: the whole application in this process, JSON on both sides, no network",
        )
        return Section("rows into the ledger", rows, notes)


@contextmanager
def floor_writer(at: Path | str) -> Iterator[Callable[[list[Row]], None]]:
    """A function that writes one batch as fast as the driver does."""
    columns = "user_id TEXT, item_id TEXT, liked BOOLEAN, timestamp BIGINT, rating DOUBLE PRECISION"
    made = f"CREATE TABLE {_FLOOR_TABLE} ({columns}, PRIMARY KEY (user_id, item_id))"
    replaced = ", ".join(f"{name} = excluded.{name}" for name in ("liked", "timestamp", "rating"))
    into = f"INSERT INTO {_FLOOR_TABLE} ({_COLUMNS}) VALUES"
    conflict = f"ON CONFLICT (user_id, item_id) DO UPDATE SET {replaced}"
    if isinstance(at, Path):
        with closing(sqlite3.connect(at / "floor.sqlite")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"DROP TABLE IF EXISTS {_FLOOR_TABLE}")
            connection.execute(f"{made} WITHOUT ROWID")

            def to_file(rows: list[Row]) -> None:
                with connection:
                    connection.executemany(f"{into} (?, ?, ?, ?, ?) {conflict}", rows)

            yield to_file
        return
    with psycopg.connect(at) as server:
        server.execute(made)
        server.commit()

        def to_server(rows: list[Row]) -> None:
            with server.cursor() as cursor:
                cursor.executemany(f"{into} (%s, %s, %s, %s, %s) {conflict}", rows)
            server.commit()

        yield to_server
        server.execute(f"DROP TABLE {_FLOOR_TABLE}")
        server.commit()


async def _posted(app: Any, body: bytes) -> httpx.Response:
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app(scope | {"state": dict(state or {})}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url="http://bench") as client:
            return await client.post("/interactions", content=body, headers={"Content-Type": "application/json"})


def open_ledger(url: str) -> Ledger:
    """The benchmark's own ledger."""
    return Ledger(url, _SECRET)

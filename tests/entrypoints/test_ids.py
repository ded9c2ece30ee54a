"""Whatever an import takes as an id can be asked for and forgotten, by HTTP and by command, with the text of the file.

The promise is tried on the real ledger, importers and routes. Some tests hold for any text that Hypothesis finds.
"""

from __future__ import annotations

import asyncio
import csv
import json
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from service.access.doorkeeper import Account
from service.data import importers
from service.entrypoints.commands.forget import NOTHING_HELD_EXIT
from service.entrypoints.commands.main import app
from service.entrypoints.http.api import Services, create_app
from service.entrypoints.http.middleware import Limits
from service.entrypoints.telemetry import Telemetry
from service.errors import ImportRefused, NotReady
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner, verify
from service.forgetting.tombstones import TombstoneFile
from service.generation import GenerationInfo
from service.ledger import KeyedHashes, Ledger
from service.records import Item
from service.scoring.requests import Query, RankBy, Recommendation
from tests.entrypoints.test_api import open_doorkeeper

SIGNER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
ODD = {
    "padded": "  pad  ",
    "two lines": "john\ndoe",
    "crlf": "john\r\ndoe",
    "tab": "tab\tid",
    "next line": "nel\u0085id",
    "next line at the end": "nel\u0085",
    "decomposed": "Jose\u0301",
    "singleton": "\u212bngstr\u00f6m",
    "zeros": "007",
    "float": "1.0",
    "slash": "a/b",
    "at": "@x",
    "dash": "-v",
    "emoji": "emoji\U0001f600",
    "family": "\U0001f469\u200d\U0001f467",
    "zero width": "zw\u200b",
    "right to left": "\u202e\u05e9\u05dc\u05d5\u05dd",
    "quotes": "\"a\" 'b', c;d|e::f",
    "markup": "[red]a[/red] %s {0} \\n",
    "longest": "x" * 256,
    "longest and padded": f"\u3000{'y' * 256}\n\n",
    "byte-order mark inside": "a\ufeffb",
}
_odd_pieces = st.sampled_from(
    [*" \t\n\r\x0b\x1c\x85\u00a0\u3000\u200b\u200f\ufeff\u0301\u0327e\u212b\x00\x01\x7f\"',;|", "ab"]
)
TEXTS = (
    st.text(max_size=20) | st.lists(_odd_pieces | st.text(max_size=3), max_size=12).map("".join) | st.text(max_size=300)
)


class NoModel:
    """Answers as the recommender does before it scores: it looks the user and the items up."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def recommend(self, query: Query, account: Account) -> Recommendation:
        if query.user_id is not None:
            self._ledger.history(query.user_id, 10)
        named = self._ledger.items_meant(query.names)
        return Recommendation("g", len(named), False, (), {}, (), RankBy.SCORE)


SECRET = b"a secret of the tests"


class Asleep:
    reason = "nothing is built here"

    def ready(self) -> bool:
        return False

    def generation_info(self) -> GenerationInfo:
        raise NotReady(self.reason)

    def ring(self) -> None:
        return None

    def require(self) -> None:
        return None


class House:
    """A ledger, and the HTTP door to it, in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite", SECRET)
        self.app = self._app()
        self._people = 0

    def _app(self) -> FastAPI:
        async def nothing() -> None:
            return None

        return create_app(
            Services(
                recommender=NoModel(self.ledger),
                ledger=self.ledger,
                intake=Intake(
                    self.ledger, SIGNER, TombstoneFile(self.folder / "tombstones.jsonl", KeyedHashes(SECRET))
                ),
                generations=Asleep(),
                bell=Asleep(),
                writable=Asleep(),
                doorkeeper=open_doorkeeper(),
                telemetry=Telemetry(forget_deadline=86_400.0),
                limits=Limits(),
                on_start=nothing,
                on_stop=nothing,
            )
        )

    def take(self, user_id: object, item_id: object, suffix: str = "csv") -> bool:
        """Import one row of a file in which the ids stand so; says whether it was taken."""
        items, rows = (self.folder / f"{name}.{suffix}" for name in ("items", "rows"))
        WRITERS[suffix](items, {"item_id": item_id, "title": "A title"})
        WRITERS[suffix](rows, {"user_id": user_id, "item_id": item_id, "liked": 1, "timestamp": 1_700_000_000})
        try:
            found = importers.table(items, rows, None, "item")
        except ImportRefused:
            return False
        if found.rejected:
            return False
        # Hypothesis may give one text twice.
        self.ledger.import_data(found.items, found.interactions, found.item_type, allow_returning=True)
        return True

    def somebody_new(self) -> str:
        self._people += 1
        return f"reader {self._people}"

    def post(self, path: str, body: object) -> httpx.Response:
        return asyncio.run(self._post(path, body))

    async def _post(self, path: str, body: object) -> httpx.Response:
        async with self.app.router.lifespan_context(self.app) as state:

            async def app_(scope: Any, receive: Any, send: Any) -> None:
                await self.app(scope | {"state": dict(state or {})}, receive, send)

            async with httpx.AsyncClient(transport=httpx.ASGITransport(app_), base_url="http://house") as client:
                return await client.post(path, json=body)


def _write_csv(path: Path, row: Mapping[str, object]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row.keys(), row.values()])


def _write_jsonl(path: Path, row: Mapping[str, object]) -> None:
    path.write_text(json.dumps(row) + "\n")


def _write_parquet(path: Path, row: Mapping[str, object]) -> None:
    pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)


WRITERS = {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    opened = House(tmp_path)
    yield opened
    opened.ledger.close()


def _user_is_erased_by_own_text(house: House, text: str, suffix: str) -> bool:
    """Whether the import took it at all; otherwise every door refuses it."""
    if not house.take(text, "an item", suffix):
        assert house.post("/forget", {"user_id": text}).status_code == 422
        assert house.post("/recommend", {"user_id": text}).status_code == 422
        return False
    assert house.ledger.counts().interactions == 1
    assert house.post("/recommend", {"user_id": text}).status_code == 200
    answer = house.post("/forget", {"user_id": text})
    assert (answer.status_code, answer.json()["held"], answer.json()["counts"]["interactions"]) == (202, True, 1)
    assert house.ledger.counts().interactions == 0
    return True


def _item_is_erased_by_own_text(house: House, text: str, suffix: str) -> bool:
    reader = house.somebody_new()
    if not house.take(reader, text, suffix):
        assert house.post("/forget", {"user_id": reader, "item_ids": [{"item_id": text}]}).status_code == 422
        return False
    for named in (text, {"item_id": text}):
        assert house.post("/recommend", {"history": {}, "candidates": [named]}).json()["fence"] == 1
    answer = house.post("/forget", {"user_id": reader, "item_ids": [text]}).json()
    assert (answer["held"], answer["items"]["erased"]) == (True, 1)
    assert house.ledger.counts().interactions == 0
    return True


FORMATS = st.sampled_from(sorted(WRITERS))
ONE_HOUSE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # people come and go in it


@settings(max_examples=15, deadline=None, suppress_health_check=ONE_HOUSE)
@example("a\x00b", "jsonl")
@example(" " * 1024 + "a", "csv")
@given(TEXTS, FORMATS)
def test_an_id_that_an_import_takes_is_erased_by_its_own_text(house: House, text: str, suffix: str) -> None:
    assert _user_is_erased_by_own_text(house, text, suffix) is _item_is_erased_by_own_text(house, text, suffix)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, suppress_health_check=ONE_HOUSE)
@given(TEXTS, FORMATS)
def test_two_thousand_ids_are_erased_by_their_own_texts(house: House, text: str, suffix: str) -> None:
    assert _user_is_erased_by_own_text(house, text, suffix) is _item_is_erased_by_own_text(house, text, suffix)


def test_odd_ids_are_taken_and_erased_by_their_own_texts(house: House) -> None:
    for text in ODD.values():
        assert _user_is_erased_by_own_text(house, text, "csv")
        assert _item_is_erased_by_own_text(house, text, "csv")


@pytest.mark.parametrize("text", ["", " \t\u3000", "x" * 257, "nul\x00"])
def test_what_is_no_id_is_refused_by_line_and_at_every_other_door(house: House, text: str) -> None:
    assert not any(house.take(text, "an item", suffix) for suffix in ("csv", "jsonl"))
    assert house.post("/forget", {"user_id": text}).status_code == 422
    assert house.post("/recommend", {"user_id": text}).status_code == 422
    if "\x00" not in text:  # which no command line can hold
        assert _lethe(house.folder, "forget", "--", text).exit_code not in {0, NOTHING_HELD_EXIT}


@pytest.mark.parametrize(
    ("stored", "asked"),
    [(1.0, "1"), (b"Jose\xcc\x81", "Jos\u00e9"), (12, "12"), (-3.0, "-3"), (pa.scalar("  a ").as_py(), "a")],
)
def test_columns_of_numbers_and_bytes_in_parquet_are_ids(house: House, stored: object, asked: str) -> None:
    assert house.take(stored, stored, "parquet")
    answer = house.post("/forget", {"user_id": asked, "item_ids": [{"item_id": asked}]}).json()
    assert (answer["held"], answer["items"]["erased"]) == (True, 1)


@pytest.mark.parametrize("stored", [1.5, float("nan"), 2.0**60, b"\xff\xfe", True, None])
def test_columns_that_hold_no_ids_are_refused(house: House, stored: object) -> None:
    assert not house.take(stored, "an item", "parquet")


def test_all_spellings_of_an_id_are_one_person(house: House) -> None:
    for spelling in ("Jos\u00e9", "Jose\u0301", "  Jose\u0301\n"):
        assert house.take(spelling, f"{unicodedata.normalize('NFD', spelling)} wrote")
    assert house.ledger.counts().users == 1
    assert house.post("/forget", {"user_id": "Jose\u0301 "}).json()["held"] is True
    assert house.ledger.counts().users == 0


# What was not there


def test_an_id_that_matches_nothing_is_told_apart_from_one_that_was_erased(house: House) -> None:
    house.take("ann", "film")
    nothing = house.post("/forget", {"user_id": "an"}).json()
    assert (nothing["held"], nothing["outcome"], nothing["state"]) == (False, "nothing_held", "completed")
    assert set(nothing["counts"].values()) == {0}
    erased = house.post("/forget", {"user_id": "ann", "item_ids": ["film", "A title", "fillm"]}).json()
    assert (erased["held"], erased["outcome"], erased["state"]) == (True, "erased", "accepted")
    assert erased["items"] == {"named": 3, "erased": 2, "already_erased": 0, "not_held": 0, "unknown": 1}
    again = house.post("/forget", {"user_id": "ann", "item_ids": ["film"]}).json()
    assert (again["held"], again["outcome"]) == (False, "already_erased")
    receipt = house.ledger.request(nothing["request_id"]).receipt
    assert receipt is not None
    stated = verify(receipt, SIGNER.public_key_pem())
    assert (stated["held"], stated["outcome"], stated["counts"]["interactions"]) == (False, "nothing_held", 0)


def test_an_item_may_be_named_by_id_or_by_title_where_one_is_the_other(house: House) -> None:
    house.ledger.import_data([Item("1", "Two"), Item("Two", "One")], [], "film")
    assert house.post("/recommend", {"history": {}, "candidates": [{"item_id": "One"}]}).json()["fence"] == 0
    named = house.ledger.items_meant(["Two", "One"])
    assert [(item.item_id,) for name in ("Two", "One") for item in named[name]] == [("Two",), ("Two",)]


# The command line, and a real server


def _lethe(home: Path, *arguments: str) -> Any:
    command, *rest = arguments
    return CliRunner().invoke(app, [command, "--home", str(home), *rest])


def test_the_command_line_erases_by_the_text_of_the_file_and_says_what_it_found(house: House) -> None:
    home = house.folder / "home"
    people = [ODD[kind] for kind in ("padded", "crlf", "next line at the end", "decomposed", "dash", "markup")]
    rows, items = house.folder / "rows.csv", house.folder / "items.csv"
    with rows.open("w", newline="", encoding="utf-8") as file:
        header = ["user_id", "item_id", "liked", "timestamp"]
        csv.writer(file).writerows([header, *([text, "A", 1, 1_700_000_000] for text in people)])
    items.write_text("item_id,title\nA,Alpha\n")
    imported = CliRunner().invoke(
        app, ["import", "table", "--items", str(items), "--interactions", str(rows), "--home", str(home)]
    )
    assert imported.exit_code == 0, imported.output
    for text in people:
        done = _lethe(home, "forget", "--json", "--", text)
        assert (done.exit_code, json.loads(done.stdout)["held"]) == (0, True)
    assert json.loads(_lethe(home, "status", "--json").stdout)["interactions"] == 0


def test_the_command_line_exits_differently_where_nothing_was_held(house: House) -> None:
    home = house.folder / "home"
    nothing = _lethe(home, "forget", "nobody", "--json")
    assert nothing.exit_code == NOTHING_HELD_EXIT
    told = json.loads(nothing.stdout)
    assert (told["held"], told["outcome"]) == (False, "nothing_held")
    assert "nothing was held" in nothing.stderr
    assert "held: False" in _lethe(home, "forget", "nobody", "--item-title", "A film").stdout


@contextmanager
def _served(application: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    [listening] = server.servers[0].sockets
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_a_server_erases_by_the_text_of_the_file(house: House) -> None:
    with _served(house.app) as url, httpx.Client(base_url=url) as client:
        for text in ODD.values():
            assert house.take(text, "an item")
            assert client.post("/recommend", json={"user_id": text}).status_code == 200
            assert client.post("/forget", json={"user_id": text}).json()["held"] is True
            assert client.post("/recommend", json={"user_id": text, "strict": True}).status_code == 404
        assert house.ledger.counts().interactions == 0

"""What fuzzing (`tests/fuzz`) has found at the door, kind by kind."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from service.entrypoints.http import (
    event_schemas,
    filter_schemas,
    forgetting_schemas,
    item_schemas,
    ranking_schemas,
    recommend_schemas,
    schemas,
)
from service.entrypoints.http.problems import FREELY_NAMED
from service.forgetting.intake import Intake
from service.forgetting.tombstones import TombstoneFile
from service.ledger import KeyedHashes, Ledger
from service.records import COMMAND_LINE, LONGEST_KEY
from tests.entrypoints.online_house import SECRET, SIGNER, OnlineHouse
from tests.entrypoints.test_api import Door

ITEM = {"title": "Babe (1995)"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[OnlineHouse]:
    opened = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    opened.ledger.close()


# Methods


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/items", "GET, POST, HEAD"),
        ("/items/i0", "DELETE, GET, PATCH, PUT, HEAD"),
        ("/interactions", "DELETE, PATCH, POST"),
        ("/forget", "GET, POST, HEAD"),
        ("/forget/preview", "POST"),
        ("/forget/f-1", "GET, HEAD"),
    ],
)
def test_a_405_names_every_method_of_the_path(house: OnlineHouse, path: str, allowed: str) -> None:
    for method in ("OPTIONS", "TRACE"):
        answer = house.ask(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_a_deletion_by_delete_wants_json_as_all_others_do(house: OnlineHouse) -> None:
    body = b'{"user_id": "ann", "item_ids": ["i0"]}'
    plain = house.ask("DELETE", "/interactions", content=body, headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    assert house.ask("DELETE", "/items/i0").status_code == 204  # it has no body


# Times


@pytest.mark.parametrize(
    "moment",
    [
        0,
        1e12,
        "0",
        "1767225600",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_times_are_texts_with_a_zone_and_have_a_date_in_every_zone(house: OnlineHouse, moment: object) -> None:
    for method in ("PUT", "PATCH"):
        answer = house.ask(method, "/items/i0", json={**ITEM, "available_from": moment})
        assert (answer.status_code, answer.json()["errors"][0]["location"]) == (422, "body.available_from")
    assert house.ask("GET", "/items").status_code == 200


@pytest.mark.parametrize("moment", ["0001-01-02T00:00:00+00:00", "9999-12-30T00:00:00Z", "2026-01-31 12:00:00.5+0100"])
def test_the_first_and_the_last_day_are_times(house: OnlineHouse, moment: str) -> None:
    assert house.ask("PUT", "/items/i0", json={**ITEM, "available_from": moment}).status_code == 200
    assert house.ask("GET", "/items/i0").status_code == 200


def test_a_change_cannot_let_an_item_end_before_it_begins(house: OnlineHouse) -> None:
    assert house.ask("PATCH", "/items/i0", json={"available_from": "2026-01-02T00:00:00Z"}).status_code == 200
    refused = house.ask("PATCH", "/items/i0", json={"available_until": "2026-01-01T00:00:00Z"})
    assert refused.status_code == 422
    assert house.ask("GET", "/items/i0").json()["available_until"] is None


# Numbers


def test_a_whole_number_may_be_written_with_a_point_as_json_has_it(house: OnlineHouse) -> None:
    row = {"user_id": "ann", "item_id": "i0", "liked": True, "timestamp": 5e3}
    assert house.post("/interactions", {"interactions": [row]}).status_code == 200
    assert house.ask("GET", "/users/ann/export").json()["interactions"][0]["timestamp"] == 5_000
    assert house.post("/interactions", {"interactions": [{**row, "timestamp": 5.5}]}).status_code == 422


def test_the_bounds_of_whole_numbers_are_documented(house: OnlineHouse) -> None:
    named = house.ask("GET", "/openapi.json").json()["components"]["schemas"]
    assert {"minimum": 1, "maximum": 200}.items() <= named["SimilarBody"]["properties"]["top_k"].items()


# Echoes


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/items/i0", {**ITEM, "attributes": {"zoë@example.org": 1}}),
        ("PATCH", "/items/i0", {"attributes": {"zoë@example.org": []}}),
        ("POST", "/items", {"items": [{**ITEM, "item_id": "i", "attributes": {"zoë@example.org": None}}]}),
        ("POST", "/recommend", {"history": {}, "filter": {"attributes": {"zoë@example.org": {"min": "x"}}}}),
    ],
)
def test_names_that_a_caller_chose_are_not_repeated(house: OnlineHouse, method: str, path: str, body: Any) -> None:
    refused = house.ask(method, path, json=body)
    assert refused.status_code == 422
    assert "zo" not in refused.text
    assert ".attributes.*" in refused.json()["errors"][0]["location"]


def test_every_field_whose_values_the_caller_names_is_known_to_the_problems() -> None:
    modules = (
        schemas,
        event_schemas,
        filter_schemas,
        forgetting_schemas,
        item_schemas,
        ranking_schemas,
        recommend_schemas,
    )
    models = {
        one
        for module in modules
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, BaseModel)
    }
    bodies = [model for model in models if model.model_config.get("strict")]
    named = {name for model in bodies for name, field in model.model_fields.items() if _is_mapping(field.annotation)}
    assert named == FREELY_NAMED


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(_is_mapping(inner) for inner in get_args(annotation))


# The document


def test_ids_are_documented_as_they_are_taken(house: OnlineHouse) -> None:
    document = house.ask("GET", "/openapi.json").json()
    stated = document["components"]["schemas"]["EventRow"]["properties"]["user_id"]
    assert stated["maxLength"] == LONGEST_KEY
    body = {"interactions": [{"user_id": "é" * LONGEST_KEY, "item_id": "i0", "liked": True}]}
    assert house.post("/interactions", body).status_code == 200


def test_whatever_any_request_may_be_refused_for_is_documented() -> None:
    for operations in Door().get("/openapi.json").json()["paths"].values():
        for operation in operations.values():
            answers = operation["responses"]
            assert {"414", "421", "431"} <= answers.keys()
            assert all("Retry-After" in answers[status]["headers"] for status in ("429", "503") if status in answers)
            if operation["x-lethe-scopes"]:
                assert all("RateLimit" in answer["headers"] for answer in answers.values())
                assert "WWW-Authenticate" in answers["401"]["headers"]


def test_a_created_item_is_answered_as_documented(house: OnlineHouse) -> None:
    answers = house.ask("GET", "/openapi.json").json()["paths"]["/items/{item_id}"]["put"]["responses"]
    assert answers["201"]["content"] == answers["200"]["content"]
    assert house.ask("PUT", "/items/new", json=ITEM).status_code == 201


# Batches


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path}/ledger.db", SECRET)
    yield opened
    opened.close()


def test_a_batch_of_deletions_takes_few_transactions(ledger: Ledger, tmp_path: Path) -> None:
    intake = Intake(ledger, SIGNER, TombstoneFile(tmp_path / "tombstones.jsonl", KeyedHashes(SECRET)))
    began: list[str] = []
    listening = [True]
    sys.addaudithook(
        lambda event, _: began.append(event) if listening and event == "lethe.forget.before_commit" else None
    )
    accepted = intake.forget_all([(f"user-{number}", None) for number in range(30)], False, COMMAND_LINE)
    listening.clear()
    assert len(began) <= 2
    assert len({one.request_id for one in accepted}) == 30
    assert all(ledger.request(one.request_id).receipt for one in accepted)


def test_who_is_named_twice_in_a_batch_is_forgotten_once(house: OnlineHouse) -> None:
    requests = house.post("/forget/batch", {"user_ids": ["ann", "bob", "ann"]}).json()["requests"]
    assert requests[0] == requests[2] != requests[1]


@pytest.mark.thorough  # it is about waiting
def test_beside_a_batch_of_deletions_others_get_their_turn(ledger: Ledger, tmp_path: Path) -> None:
    intake = Intake(ledger, SIGNER, TombstoneFile(tmp_path / "tombstones.jsonl", KeyedHashes(SECRET)))
    over = threading.Event()

    def forget_many() -> None:
        with suppress(Exception):
            intake.forget_all([(f"user-{number}", None) for number in range(200)], False, COMMAND_LINE)
        over.set()

    many = threading.Thread(target=forget_many)
    many.start()
    time.sleep(0.05)
    beside = 0
    while not over.is_set():
        ledger.forget(f"other-{beside}", None, None)
        beside += 1
    many.join()
    assert beside >= 5  # of eight pauses

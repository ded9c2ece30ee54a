"""Restriction, objection and legal hold over HTTP, and what they tell to whom."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from service.ledger import Scope
from tests.entrypoints.online_house import OnlineHouse
from tests.entrypoints.test_access import Gate

ROW = {"user_id": "ann", "item_id": "i0", "liked": True, "timestamp": 1_000}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[OnlineHouse]:
    opened = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    assert opened.post("/interactions", {"interactions": [ROW, {**ROW, "user_id": "bob"}]}).status_code == 200
    yield opened
    opened.ledger.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    opened = Gate(tmp_path)
    yield opened
    opened.close()


def test_a_restriction_is_set_told_exported_and_lifted(house: OnlineHouse) -> None:
    rung = house.asleep.rung
    answer = house.ask("PUT", "/users/ann/restriction", json={"ground": "objection"})
    told = answer.json()
    assert (answer.status_code, told["ground"], told["interactions"], told["left_out"]) == (200, "objection", 1, True)
    assert house.asleep.rung == rung + 1
    assert house.ask("GET", "/users/ann/restriction").json() == told
    assert house.post("/interactions", {"interactions": [ROW]}).json() == {
        "taken": 0,
        "counts": {"restricted": 1},
        "outcomes": ["restricted"],
    }
    export = house.ask("GET", "/users/ann/export").json()
    assert export["restraints"] == [{"kind": "restriction", "ground": "objection", "since": told["since"]}]
    assert [(row["item_id"], row["counted"], row["set_aside"]) for row in export["interactions"]] == [
        ("i0", False, "restriction")
    ]
    assert "set_aside" in house.ask("GET", "/users/ann/export", params={"format": "csv"}).text.splitlines()[0]
    assert house.ask("DELETE", "/users/ann/restriction").json() == {"lifted": True, "interactions": 1}
    assert house.ask("DELETE", "/users/ann/restriction").json() == {"lifted": False, "interactions": 0}
    missing = house.ask("GET", "/users/ann/restriction")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:lethe:problem:unknown-restraint")


def test_rows_of_a_restricted_person_are_selected_and_forgotten_as_others(house: OnlineHouse) -> None:
    house.ask("PUT", "/users/ann/restriction", json={"ground": "restriction"})
    found = house.post("/forget/batch/preview", {"item_ids": ["i0"]}).json()
    assert (found["users"], found["interactions"]) == (2, 2)
    house.post("/forget/batch", {"selection": {"item_ids": ["i0"], "digest": found["digest"]}})
    assert house.ask("DELETE", "/users/ann/restriction").json() == {"lifted": True, "interactions": 0}
    assert house.ledger.seen("ann") == frozenset()


def test_a_restricted_person_is_answered_as_a_stranger(house: OnlineHouse) -> None:
    assert "cold" not in house.post("/recommend", {"user_id": "ann"}).json()
    house.ask("PUT", "/users/ann/restriction", json={"ground": "restriction"})
    restricted, stranger = (house.post("/recommend", {"user_id": user}).json() for user in ("ann", "nobody"))
    assert (restricted["cold"], restricted["items"]) == (True, stranger["items"])


def test_a_hold_turns_a_deletion_into_a_held_one_and_its_release_lets_it_go_on(house: OnlineHouse) -> None:
    told = house.ask("PUT", "/users/ann/hold", json={"ground": " court order "}).json()
    assert (told["ground"], told["interactions"]) == ("court order", 0)
    accepted = house.post("/forget", {"user_id": "ann"}).json()
    assert (accepted["state"], accepted["held"], accepted["counts"]["interactions"]) == ("held", True, 1)
    assert house.ask("GET", "/users/ann/hold").json()["interactions"] == 1
    held = house.ask("GET", "/forget", params={"state": "held"}).json()["requests"]
    assert [one["request_id"] for one in held] == [accepted["request_id"]]
    assert 'lethe_forget_requests{state="held"} 1.0' in house.ask("GET", "/metrics").text
    assert house.ask("GET", f"/forget/{accepted['request_id']}/receipt").status_code == 409
    released = house.ask("DELETE", "/users/ann/hold").json()
    assert released == {"released": True, "deletions": [accepted["request_id"]]}
    assert house.ask("GET", f"/forget/{accepted['request_id']}").json()["state"] == "accepted"
    [due] = house.ask("GET", "/forget").json()["requests"]
    times = [datetime.fromisoformat(due[name]) for name in ("accepted_at", "due_at")]
    assert times[1] - times[0] > timedelta(days=30)  # it counts from the release
    assert house.ask("GET", "/users/ann/hold").status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("restriction", {}),
        ("restriction", {"ground": "whim"}),
        ("restriction", {"ground": "objection", "note": "private"}),
        ("hold", {"ground": "  "}),
        ("hold", {"ground": "x" * 201}),
        ("hold", {}),
    ],
)
def test_what_is_no_ground_is_refused_and_not_repeated(house: OnlineHouse, path: str, body: dict[str, str]) -> None:
    answer = house.ask("PUT", f"/users/ann/{path}", json=body)
    assert answer.status_code == 422
    assert "private" not in answer.text
    assert "whim" not in answer.text


def test_without_rights_a_deletion_of_anybody_is_answered_alike(gate: Gate) -> None:
    rights, forget = gate.key(Scope.RIGHTS, Scope.INGEST, Scope.ITEMS), gate.key(Scope.FORGET)
    gate.call("POST", "/items", rights, {"items": [{"item_id": "i0", "title": "Alien"}]})
    rows = [{**ROW, "user_id": user} for user in ("ann", "bob")]
    assert gate.call("POST", "/interactions", rights, {"interactions": rows}).json()["taken"] == 2
    assert gate.call("PUT", "/users/ann/hold", rights, {"ground": "court order"}).status_code == 200
    assert gate.call("PUT", "/users/cid/restriction", rights, {"ground": "objection"}).status_code == 200
    told = [gate.forget(user, forget) for user in ("ann", "ann", "bob", "cid", "nobody")]
    assert [answer.status_code for answer in told] == [202] * 5
    assert [sorted(answer.json()) for answer in told] == [["accepted_at", "request_id", "state"]] * 5
    assert {answer.json()["state"] for answer in told} == {"accepted"}
    assert len({answer.json()["request_id"] for answer in told}) == 5
    status = gate.call("GET", f"/forget/{told[0].json()['request_id']}", forget)
    assert (status.status_code, status.json()["state"]) == (200, "accepted")
    for path in ("ann/hold", "ann/restriction", "nobody/hold"):
        assert gate.call("GET", f"/users/{path}", forget).status_code == 403

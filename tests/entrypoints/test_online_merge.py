"""Merging a guest into an account over HTTP: who may, what is answered, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.forgetting.tombstones import TombstoneFile
from service.ledger import KeyedHashes
from tests.entrypoints.online_house import SECRET, OnlineHouse

ROW = {"item_id": "i0", "liked": True, "timestamp": 1_000}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[OnlineHouse]:
    """A guest with two rows, and an account with one."""
    opened = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    rows = [{**ROW, "user_id": "guest"}, {**ROW, "user_id": "guest", "item_id": "i1"}, {**ROW, "user_id": "ann"}]
    assert opened.post("/interactions", {"interactions": rows}).status_code == 200
    yield opened
    opened.ledger.close()


def test_a_merge_is_a_request_with_a_receipt_and_moves_everything(house: OnlineHouse, tmp_path: Path) -> None:
    rung = house.asleep.rung
    answer = house.post("/users/guest/merge", {"into": "ann"})
    told = answer.json()
    assert (answer.status_code, told["state"], told["held"], told["outcome"]) == (202, "accepted", True, "merged")
    assert told["counts"]["interactions"] == 2
    assert house.asleep.rung == rung + 1
    status = house.ask("GET", answer.headers["Location"]).json()
    assert (status["outcome"], status["scope"]) == ("merged", "user")
    assert house.ledger.seen("ann") == {"i0", "i1"}
    assert house.ask("GET", "/users/guest/export").json()["interactions"] == []
    refused = house.post("/interactions", {"interactions": [{**ROW, "user_id": "guest"}]}).json()
    assert refused["outcomes"] == ["forgotten"]
    [stone] = TombstoneFile(tmp_path / "tombstones.jsonl", KeyedHashes(SECRET)).standing()
    assert (stone.subject, stone.request_id) == (house.ledger.subject("guest"), told["request_id"])
    assert house.ledger.trail.entries(1)[0].event.action == "merge"


def test_under_one_key_it_is_one_merge(house: OnlineHouse) -> None:
    key = {"Idempotency-Key": "k"}
    first = house.ask("POST", "/users/guest/merge", json={"into": "ann"}, headers=key).json()
    again = house.ask("POST", "/users/guest/merge", json={"into": "ann"}, headers=key)
    assert (again.status_code, again.json()["request_id"]) == (202, first["request_id"])
    other = house.ask("POST", "/users/guest/merge", json={"into": "bob"}, headers=key)
    assert (other.status_code, other.json()["type"]) == (409, "urn:lethe:problem:idempotency-conflict")


def test_what_cannot_be_merged_is_refused_and_says_what_to_do(house: OnlineHouse) -> None:
    for path, into, status in (("guest", "guest", 422), ("nobody", "ann", 404)):
        assert house.post(f"/users/{path}/merge", {"into": into}).status_code == status
    assert house.post("/users/guest/merge", {"into": ""}).status_code == 422
    house.ask("PUT", "/users/ann/hold", json={"ground": "court order"})
    held = house.post("/users/guest/merge", {"into": "ann"})
    assert (held.status_code, held.json()["type"]) == (409, "urn:lethe:problem:merge-refused")
    assert "release the hold" in held.json()["detail"]
    assert "guest" not in held.text
    house.ask("DELETE", "/users/ann/hold")
    assert house.post("/users/guest/merge", {"into": "ann"}).status_code == 202

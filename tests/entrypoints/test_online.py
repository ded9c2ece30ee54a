"""Events and items over HTTP, on a real ledger of either kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.entrypoints.http.event_schemas import MOST_EVENTS
from service.entrypoints.http.online import Turnstile
from tests.entrypoints.online_house import OnlineHouse


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.thorough)])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineHouse]:
    if request.param == "sqlite":
        opened = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
        yield opened
        opened.ledger.close()
        return
    with request.getfixturevalue("new_database")() as url:
        opened = OnlineHouse(tmp_path, url)
        yield opened
        opened.ledger.close()


@pytest.fixture
def light(tmp_path: Path) -> Iterator[OnlineHouse]:
    """A house on SQLite, for what does not depend on the database."""
    opened = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    opened.ledger.close()


def event(item: str, user: str = "ann", **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, **fields}


def outcomes(house: OnlineHouse, *rows: dict[str, Any], **options: Any) -> list[str]:
    answer = house.post("/interactions", {"interactions": rows, **options})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["taken"] == sum(word in ("new", "changed") for word in told["outcomes"])
    assert sum(told["counts"].values()) == len(rows)
    return list(told["outcomes"])


# Events


def test_every_row_has_an_outcome_of_its_own(house: OnlineHouse) -> None:
    assert outcomes(
        house,
        event("i0", liked=True, timestamp=50),
        event("i1", rating=3.0),
        event("i2", rating=3.5, liked=False),
        event("i3", event="Play", event_id="e1"),
        event("i3", event="play", event_id="e1"),
        event("i4", event="view"),
        event("i4", event="wave"),
        event("elsewhere", event="play"),
        event("i0", liked=False, timestamp=40),
    ) == ["new", "new", "new", "new", "duplicate", "ignored", "unknown_event", "unknown_item", "outdated"]
    assert {o.item.item_id: o.liked for o in house.ledger.history("ann", 9)} == {
        "i0": True,
        "i1": False,
        "i2": False,
        "i3": True,
    }
    metrics = house.ask("GET", "/metrics").text
    assert 'lethe_events_total{outcome="unknown_event"} 1.0' in metrics


def test_rows_of_the_forgotten_are_refused_until_they_come_back(house: OnlineHouse) -> None:
    assert outcomes(house, event("i0", liked=True), event("i1", "bob", liked=True)) == ["new", "new"]
    assert house.post("/forget", {"user_id": "ann"}).json()["held"] is True
    assert outcomes(house, event("i2", liked=True), event("i2", "bob", liked=True)) == ["forgotten", "new"]
    assert outcomes(house, event("i2", liked=True), allow_returning=True) == ["new"]
    assert house.ledger.resurrected_users() == {}
    assert house.ledger.seen("ann") == {"i2"}


def test_single_interactions_are_forgotten_by_a_request_with_a_status(house: OnlineHouse) -> None:
    outcomes(house, event("i0", liked=True), event("i1", liked=True))
    body = {"user_id": "ann", "item_ids": ["i0"]}
    answer = house.ask("DELETE", "/interactions", json=body)
    assert (answer.status_code, answer.json()["items"]["erased"]) == (202, 1)
    status = house.ask("GET", answer.headers["location"])
    assert (status.json()["scope"], house.asleep.rung) == ("interactions", 1)
    assert house.ledger.seen("ann") == {"i1"}
    assert house.ask("DELETE", "/interactions", json={"user_id": "ann"}).status_code == 422


@pytest.mark.parametrize(
    "row",
    [
        event("i0"),
        event("i0", liked=True, event="play"),
        event("i0", liked="yes"),
        event("", liked=True),
        event("i0", liked=True, timestamp=1_700_000_000_000),
        event("i0", liked=True, timestamp=-1),
        event("i0", rating="NaN"),
        event("i0", event="a b"),
        event("i0", liked=True, more=1),
    ],
)
def test_a_row_that_cannot_be_read_leaves_nothing_of_its_batch(light: OnlineHouse, row: dict[str, Any]) -> None:
    answer = light.post("/interactions", {"interactions": [event("i1", liked=True), row]})
    assert (answer.status_code, answer.json()["title"]) == (422, "Invalid input")
    assert light.ledger.counts().interactions == 0


def test_a_batch_may_be_large_and_not_larger(light: OnlineHouse) -> None:
    rows = [event("i0", f"person number {n}", liked=True, timestamp=1_000) for n in range(MOST_EVENTS)]
    assert outcomes(light, *rows) == ["new"] * MOST_EVENTS
    assert light.post("/interactions", {"interactions": [*rows, *rows[:1]]}).status_code == 422
    assert light.post("/recommend", {"user_id": "a", "pad": "x" * 300_000}).status_code == 413


def test_where_too_many_wait_a_batch_is_to_be_sent_again(tmp_path: Path) -> None:
    turnstile = Turnstile(places=1)
    house = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db", turnstile)
    with turnstile.passed():
        answer = house.post("/interactions", {"interactions": [event("i0", liked=True)]})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert outcomes(house, event("i0", liked=True)) == ["new"]
    house.ledger.close()


# Items

BABE = {
    "title": "Babe (1995)",
    "year": 1995,
    "categories": ["Comedy"],
    "attributes": {"language": "en", "price": 3.5, "stock": True},
}


def test_an_item_is_put_read_patched_and_deleted(house: OnlineHouse) -> None:
    created = house.ask("PUT", "/items/34", json=BABE)
    assert created.status_code == 201
    held = house.ask("GET", "/items/34").json()
    assert (
        held
        == created.json()
        == {
            "item_id": "34",
            "description": None,
            "author": None,
            "hidden": False,
            "available_from": None,
            "available_until": None,
            **BABE,
        }
    )
    assert house.ask("PUT", "/items/34", json=BABE).status_code == 200
    patch = {"hidden": True, "attributes": {"stock": None, "price": 4}, "available_from": "2026-01-01T00:00:00Z"}
    patched = house.ask("PATCH", "/items/34", json=patch).json()
    assert (patched["hidden"], patched["attributes"]) == (True, {"language": "en", "price": 4})
    assert patched["available_from"] == "2026-01-01T00:00:00Z"
    assert house.ask("GET", "/items/34").json() == patched
    assert house.ask("DELETE", "/items/34").status_code == 204
    for method, options in (("GET", {}), ("PATCH", {"json": {"hidden": True}}), ("DELETE", {})):
        gone = house.ask(method, "/items/34", **options)
        assert (gone.status_code, gone.json()["type"]) == (404, "urn:lethe:problem:unknown-item")
    assert house.ask("PUT", "/items/34", json=BABE).status_code == 201


def test_many_items_come_at_once_or_none_of_them(house: OnlineHouse) -> None:
    items = [{"item_id": f"n{n}", "title": f"New {n}"} for n in range(3)]
    old = {"item_id": "i0", "title": "Title 0 (1999)", "year": 1999, "categories": ["Drama", "War"]}
    assert house.post("/items", {"items": [*items, old]}).json() == {"created": 3, "changed": 0, "unchanged": 1}
    renamed = {**old, "title": "Another"}
    assert house.post("/items", {"items": [renamed, renamed]}).status_code == 422
    assert house.ask("GET", "/items/i0").json()["title"] == "Title 0 (1999)"


def test_the_catalog_is_paged_in_order_without_the_deleted(house: OnlineHouse) -> None:
    house.ask("DELETE", "/items/i3")
    found, cursor = [], ""
    while cursor is not None:
        page = house.ask("GET", "/items", params={"cursor": cursor, "limit": 2}).json()
        found += [item["item_id"] for item in page["items"]]
        cursor = page["cursor"]
    assert found == ["i0", "i1", "i2", "i4", "i5"]
    assert house.ask("GET", "/items", params={"cursor": "no cursor"}).status_code == 422


def test_facts_call_for_a_generation_and_what_may_be_shown_does_not(house: OnlineHouse) -> None:
    def revisions() -> tuple[int, int]:
        return house.ledger.view().catalog_revision, house.ledger.availability_revision()

    facts, shown = revisions()
    house.ask("PATCH", "/items/i0", json={"hidden": True})
    assert revisions() == (facts, shown + 1)
    house.ask("PATCH", "/items/i0", json={"title": "Another"})
    assert revisions() == (facts + 1, shown + 2)
    house.ask("PATCH", "/items/i0", json={"title": "Another"})
    assert revisions() == (facts + 1, shown + 2)
    house.ask("DELETE", "/items/i1")
    assert revisions() == (facts + 2, shown + 3)


def test_rows_of_a_deleted_item_are_kept_and_count_until_the_horizon_moves(house: OnlineHouse) -> None:
    outcomes(house, event("i0", liked=True), event("i1", liked=True))
    house.ledger.advance_horizon()
    house.ask("DELETE", "/items/i0")
    assert {row.item_id for row in house.ledger.view().interactions["ann"]} == {"i0", "i1"}
    assert "i0" in {item.item_id for item in house.ledger.view().items}
    assert "i0" in {item.item_id for item in house.ledger.view().catalog or ()}  # counts name it still
    house.ledger.advance_horizon()
    assert "i0" not in {item.item_id for item in house.ledger.view().catalog or ()}
    assert {row.item_id for row in house.ledger.view().interactions["ann"]} == {"i1"}
    assert house.ledger.seen("ann") == {"i0", "i1"}
    house.ask("PUT", "/items/i0", json={"title": "Back again"})
    assert {row.item_id for row in house.ledger.view().interactions["ann"]} == {"i1"}
    house.ledger.advance_horizon()
    assert {row.item_id for row in house.ledger.view().interactions["ann"]} == {"i0", "i1"}


# Recommendations


def test_a_cursor_pages_through_the_catalog_without_a_repeat(light: OnlineHouse) -> None:
    found, cursor = [], ""
    while cursor is not None:
        page = light.post("/recommend", {"user_id": "ann", "top_k": 2, "cursor": cursor}).json()
        found += [item["item_id"] for item in page["items"]]
        cursor = page["cursor"]
        if len(found) == 2:
            light.ask("PUT", "/items/i00", json={"title": "One that comes between"})
    assert sorted(found) == ["i0", "i00", "i1", "i2", "i3", "i4", "i5"]
    assert "cursor" not in light.post("/recommend", {"user_id": "ann"}).json()
    assert light.post("/recommend", {"user_id": "ann", "cursor": "", "offset": 1}).status_code == 422
    assert light.post("/recommend", {"user_id": "ann", "cursor": "bm8="}).status_code == 422


def test_a_stranger_is_told_to_be_one(light: OnlineHouse) -> None:
    outcomes(light, event("i0", liked=True))
    assert light.post("/recommend", {"user_id": "nobody"}).json()["cold"] is True
    assert "cold" not in light.post("/recommend", {"user_id": "ann"}).json()


@pytest.mark.parametrize(
    "wanted",
    [
        {"categories": {"any": []}},
        {"year": {}},
        {"attributes": {"a b": 1}},
        {"attributes": {"a": None}},
        {"attributes": {"a": {"least": 1}}},
        {"more": 1},
    ],
)
def test_a_filter_that_says_nothing_is_refused(light: OnlineHouse, wanted: dict[str, Any]) -> None:
    assert light.post("/recommend", {"user_id": "ann", "filter": wanted}).status_code == 422

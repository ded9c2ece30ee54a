"""Exports, lists and previews of deletions, and rankings beside `POST /recommend`, over HTTP."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from service.forgetting.intake import Intake
from service.forgetting.restore import restore_check
from service.forgetting.tombstones import TombstoneFile
from service.ledger import KeyedHashes
from service.records import ById
from tests.entrypoints.online_house import SECRET, SIGNER, OnlineHouse


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.thorough)])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineHouse]:
    if request.param == "sqlite":
        opened = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
        yield _filled(opened)
        opened.ledger.close()
        return
    with request.getfixturevalue("new_database")() as url:
        opened = OnlineHouse(tmp_path, url)
        yield _filled(opened)
        opened.ledger.close()


@pytest.fixture
def light(tmp_path: Path) -> Iterator[OnlineHouse]:
    """A house on SQLite, for what does not depend on the database."""
    opened = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    yield _filled(opened)
    opened.ledger.close()


def _filled(house: OnlineHouse) -> OnlineHouse:
    """Ann and Bob count and were seen; Ann has done something since."""
    rows = [_row("ann", "i0"), _row("ann", "i1", rating=2), {**_row("bob", "i2"), "source": "feed-1"}]
    assert house.post("/interactions", {"interactions": rows}).status_code == 200
    house.ledger.advance_horizon()
    shards, memories = {"ad1": "010"}, {"me1": {"ann": 2, "bob": 1}}
    house.ledger.record_lineage(0, {"ad1": ["ann", "ann"]}, {"row-1": "bob"}, shards, memories)
    later = {**_row("ann", "i3"), "event_id": "e1", "timestamp": 5_000, "source": "feed-1"}
    assert house.post("/interactions", {"interactions": [later]}).status_code == 200
    return house


def _row(user: str, item: str, **opinion: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "timestamp": 1_000 + int(item[1:]), **(opinion or {"liked": True})}


# Ids that need to be encoded in a path

AWKWARD = ["a/b", "/", "100%", "%2F", "50%25", "a b?c#d", "ü/ö", "a;b=c"]


@pytest.mark.parametrize("name", AWKWARD)
def test_whatever_an_id_holds_it_is_one_segment_of_a_path(light: OnlineHouse, name: str) -> None:
    path = quote(name, safe="")
    assert light.ask("PUT", f"/items/{path}", json={"title": "Heat"}).status_code == 201
    assert light.ask("GET", f"/items/{path}").json()["item_id"] == name
    row = {"user_id": name, "item_id": name, "liked": True}
    assert light.post("/interactions", {"interactions": [row]}).json()["taken"] == 1
    told = light.ask("GET", f"/users/{path}/export").json()
    assert [told["user_id"], told["interactions"][0]["item_id"]] == [name, name]
    assert light.ask("PUT", f"/users/{path}/restriction", json={"ground": "objection"}).status_code == 200
    assert light.ask("DELETE", f"/users/{path}/restriction").json()["lifted"]
    assert light.ask("DELETE", f"/items/{path}").status_code == 204
    assert light.ask("GET", f"/items/{path}").status_code == 404


# What is held


def test_a_person_gets_all_that_is_held_and_where_it_counts(house: OnlineHouse) -> None:
    told = house.ask("GET", "/users/ann/export").json()
    counted = {row["item_id"]: row["counted"] for row in told["interactions"]}
    assert counted == {"i0": True, "i1": True, "i3": False}
    assert told["interactions"][1] == {
        "item_id": "i1",
        "title": "Title 1 (1999)",
        "liked": False,
        "rating": 2.0,
        "timestamp": 1_001,
        "counted": True,
        "set_aside": None,
        "source": None,
    }
    assert told["used_by"] == [
        {"kind": "adapter", "key": "ad1", "shard": "010", "samples": 2},
        {"kind": "memory", "key": "me1", "shard": None, "samples": 2},
    ]
    assert (told["user_id"], told["known_event_ids"], told["deletions"]) == ("ann", 1, [])
    table = house.ask("GET", "/users/ann/export", params={"format": "csv"})
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["item_id"] for row in rows] == ["i0", "i1", "i3"]
    assert table.headers["content-type"] == "text/csv; charset=utf-8"


def test_of_the_forgotten_the_export_names_their_deletions_alone(house: OnlineHouse) -> None:
    request_id = house.post("/forget", {"user_id": "ann"}).json()["request_id"]
    told = house.ask("GET", "/users/ann/export").json()
    assert (told["interactions"], told["used_by"], told["known_event_ids"]) == ([], [], 0)
    assert [one["request_id"] for one in told["deletions"]] == [request_id]
    assert house.ask("GET", "/users/never%20held/export").json()["deletions"] == []


# Rectification


def test_a_rectified_interaction_is_erased_and_stands_corrected_with_a_request_of_its_own(house: OnlineHouse) -> None:
    rung = house.asleep.rung
    answer = house.ask("PATCH", "/interactions", json={"user_id": "ann", "item_id": "i0", "liked": False})
    told = answer.json()
    assert (answer.status_code, told["state"], told["outcome"]) == (202, "accepted", "erased")
    assert (told["counts"]["interactions"], told["affected_shards"]) == (1, ["ad1"])
    assert answer.headers["Location"] == f"/forget/{told['request_id']}"
    assert house.asleep.rung == rung + 1
    assert (set(house.ledger.mask().adapters), set(house.ledger.mask().memories)) == ({"ad1"}, {"me1"})
    held = {row["item_id"]: row for row in house.ask("GET", "/users/ann/export").json()["interactions"]}
    assert (held["i0"]["liked"], held["i0"]["counted"]) == (False, False)
    assert held.keys() == {"i0", "i1", "i3"}


def test_what_was_wrong_does_not_come_back_and_what_is_newer_counts(house: OnlineHouse) -> None:
    body = {"user_id": "ann", "item_id": "i0", "rating": 1}
    for _ in range(2):  # the second correction is over the first, too
        assert house.ask("PATCH", "/interactions", json=body).status_code == 202
    assert house.ledger.resurrected_users() == {}
    assert house.post("/interactions", {"interactions": [_row("ann", "i0")]}).json()["outcomes"] == ["forgotten"]
    later = {**_row("ann", "i0"), "timestamp": int(house.ledger.now()) + 60}
    assert house.post("/interactions", {"interactions": [later]}).json()["outcomes"] == ["changed"]
    assert house.ledger.resurrected_users() == {}


def test_a_restored_ledger_loses_the_interaction_that_was_rectified(tmp_path: Path) -> None:
    """Corrected twice since the backup, so that the tombstone file has a later line over an earlier one."""
    (tmp_path / "old").mkdir()
    house = _filled(OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db"))
    old = _filled(OnlineHouse(tmp_path / "old", f"sqlite:///{tmp_path}/old/ledger.db"))
    for liked in (False, True):
        body = {"user_id": "ann", "item_id": "i0", "liked": liked}
        assert house.ask("PATCH", "/interactions", json=body).status_code == 202
    stones = TombstoneFile(tmp_path / "tombstones.jsonl", KeyedHashes(SECRET)).standing()
    assert old.ledger.restore_tombstones(stones)[0] == 1
    assert old.ledger.resurrected_users() == {"ann": ["i0"]}
    for one in (house, old):
        one.ledger.close()


def test_after_a_restored_ledger_the_correction_can_be_sent_anew(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    house = _filled(OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db"))
    assert house.ask("PATCH", "/interactions", json={"user_id": "ann", "item_id": "i0", "liked": False}).is_success
    corrected = {**_row("ann", "i0", liked=False), "timestamp": int(house.ledger.now()) + 60}
    (tmp_path / "old" / "tombstones.jsonl").write_bytes((tmp_path / "tombstones.jsonl").read_bytes())
    old = _filled(OnlineHouse(tmp_path / "old", f"sqlite:///{tmp_path}/old/ledger.db"))
    file = TombstoneFile(tmp_path / "old" / "tombstones.jsonl", KeyedHashes(SECRET))
    assert len(restore_check(old.ledger, file, Intake(old.ledger, SIGNER, file)).requests) == 1
    assert "i0" not in old.ledger.seen("ann")
    assert old.post("/interactions", {"interactions": [_row("ann", "i0")]}).json()["outcomes"] == ["forgotten"]
    assert old.post("/interactions", {"interactions": [corrected]}).json()["outcomes"] == ["new"]
    assert restore_check(old.ledger, file, Intake(old.ledger, SIGNER, file)).requests == ()
    for one in (house, old):
        one.ledger.close()


def test_a_correction_that_is_sent_again_is_the_same_and_another_one_under_its_key_is_refused(
    light: OnlineHouse,
) -> None:
    body = {"user_id": "ann", "item_id": "i3", "liked": False}
    key = {"Idempotency-Key": "k-1"}
    first = light.ask("PATCH", "/interactions", json=body, headers=key).json()
    assert light.ask("PATCH", "/interactions", json=body, headers=key).json()["request_id"] == first["request_id"]
    other = light.ask("PATCH", "/interactions", json={**body, "liked": True}, headers=key)
    assert (other.status_code, other.json()["type"]) == (409, "urn:lethe:problem:idempotency-conflict")
    again = {"user_id": "ann", "item_id": "i3", "liked": True, "event_id": "e1"}
    assert light.post("/interactions", {"interactions": [again]}).json()["outcomes"] == ["duplicate"]


def test_what_is_not_held_cannot_be_rectified(light: OnlineHouse) -> None:
    for body in (
        {"user_id": "ann", "item_id": "i5", "liked": True},
        {"user_id": "nobody", "item_id": "i0", "liked": True},
    ):
        answer = light.ask("PATCH", "/interactions", json=body)
        assert (answer.status_code, answer.json()["title"]) == (404, "Unknown interaction")
        assert "nobody" not in answer.text
    assert light.ask("PATCH", "/interactions", json={"user_id": "ann", "item_id": "i0"}).status_code == 422
    assert light.ledger.pending() == []


# Deletions


def test_a_preview_says_what_a_deletion_then_does_and_changes_nothing(house: OnlineHouse) -> None:
    before = house.ledger.mask(), house.ledger.counts()
    told = house.post("/forget/preview", {"user_id": "ann"}).json()
    assert (told["outcome"], told["interactions"], told["expected_seconds"]) == ("erased", 3, None)
    assert [use["key"] for use in told["masked"]] == ["ad1", "me1"]
    one = house.post("/forget/preview", {"user_id": "ann", "item_ids": ["i3", "i5"]}).json()
    assert (one["outcome"], one["interactions"]) == ("erased", 1)
    nobody = house.post("/forget/preview", {"user_id": "nobody"}).json()
    assert nobody == {
        "outcome": "nothing_held",
        "interactions": 0,
        "impressions": 0,
        "masked": [],
        "expected_seconds": None,
    }
    assert (house.ledger.mask(), house.ledger.counts()) == before
    done = house.post("/forget", {"user_id": "ann"}).json()
    assert (done["outcome"], done["counts"]["interactions"], done["affected_shards"]) == ("erased", 3, ["ad1"])


def test_deletions_are_listed_in_order_with_their_due_dates(house: OnlineHouse) -> None:
    asked = [house.post("/forget", {"user_id": user}).json()["request_id"] for user in ("ann", "nobody", "bob")]
    found, cursor = [], ""
    while cursor is not None:
        page = house.ask("GET", "/forget", params={"cursor": cursor, "limit": 2}).json()
        found += page["requests"]
        cursor = page["cursor"]
    assert [one["request_id"] for one in found] == asked
    due = [datetime.fromisoformat(one["due_at"]) - datetime.fromisoformat(one["accepted_at"]) for one in found]
    assert due == 3 * [timedelta(days=30)]
    status = house.ask("GET", f"/forget/{asked[0]}").json()
    assert status == found[0]
    owed = house.ask("GET", "/forget", params={"state": "accepted"}).json()["requests"]
    assert [one["request_id"] for one in owed] == [asked[0], asked[2]]
    for params in ({"state": "lost"}, {"cursor": "bm8="}, {"limit": 0}):
        assert house.ask("GET", "/forget", params=params).status_code == 422


def test_a_batch_of_deletions_has_a_request_for_each_and_rings_once(house: OnlineHouse) -> None:
    rung = house.asleep.rung
    answer = house.post("/forget/batch", {"user_ids": ["ann", "nobody", "bob"]})
    assert answer.status_code == 202
    told = answer.json()
    assert (told["held"], [one["held"] for one in told["requests"]]) == (2, [True, False, True])
    assert [one["state"] for one in told["requests"]] == ["accepted", "completed", "accepted"]
    assert house.asleep.rung == rung + 1
    assert house.ledger.counts().interactions == 0
    again = house.post("/forget/batch", {"user_ids": ["ann"]}).json()
    assert again["requests"][0]["request_id"] == told["requests"][0]["request_id"]


def preview(house: OnlineHouse, selection: dict[str, Any]) -> dict[str, Any]:
    return dict(house.post("/forget/batch/preview", selection).json())


@pytest.mark.parametrize(
    ("selection", "users", "rows"),
    [
        ({"item_ids": ["i0", "i2"]}, 2, {"ann": ["i0"], "bob": ["i2"]}),
        ({"item_ids": ["i3"]}, 1, {"ann": ["i3"]}),  # beyond the horizon
        ({"user_ids": ["ann", "nobody"]}, 1, {"ann": ["i0", "i1", "i3"]}),
        ({"since": "1970-01-01T00:16:41Z", "until": "1970-01-01T00:16:42Z"}, 1, {"ann": ["i1"]}),
        ({"user_ids": ["ann"], "until": "1970-01-01T00:16:41Z"}, 1, {"ann": ["i0"]}),
        ({"item_ids": ["i5"]}, 0, {}),
        ({"sources": ["feed-1"]}, 2, {"ann": ["i3"], "bob": ["i2"]}),  # on both sides of the horizon
        ({"sources": ["feed-1", "nowhere"], "user_ids": ["ann"]}, 1, {"ann": ["i3"]}),
        ({"sources": ["feed-1"], "until": "1970-01-01T01:00:00Z"}, 1, {"bob": ["i2"]}),
        ({"sources": ["ann"]}, 0, {}),
    ],
)
def test_selected_rows_are_forgotten_as_previewed_and_no_others(
    house: OnlineHouse, selection: dict[str, Any], users: int, rows: dict[str, list[str]]
) -> None:
    held = {user: house.ledger.seen(user) for user in ("ann", "bob")}
    told = preview(house, selection)
    assert (told["users"], told["interactions"]) == (users, sum(map(len, rows.values())))
    assert {user: house.ledger.seen(user) for user in held} == held
    done = house.post("/forget/batch", {"selection": {**selection, "digest": told["digest"]}})
    assert (done.status_code, done.json()["held"]) == (202, users)
    assert {user: house.ledger.seen(user) for user in held} == {
        user: items - set(rows.get(user, ())) for user, items in held.items()
    }
    for one in done.json()["requests"]:
        assert house.ledger.request(one["request_id"]).scope == "interactions"


def test_a_person_is_told_where_their_rows_came_from(light: OnlineHouse) -> None:
    told = light.ask("GET", "/users/ann/export").json()["interactions"]
    assert {row["item_id"]: row["source"] for row in told} == {"i0": None, "i1": None, "i3": "feed-1"}
    table = light.ask("GET", "/users/ann/export", params={"format": "csv"}).text
    assert {row["item_id"]: row["source"] for row in csv.DictReader(io.StringIO(table))}["i3"] == "feed-1"


@pytest.mark.parametrize("label", ["", "-x", "two words", "x" * 65, "Jos\u00e9", "line\n", 7])
def test_a_source_is_a_short_label(light: OnlineHouse, label: object) -> None:
    assert light.post("/interactions", {"interactions": [{**_row("cid", "i0"), "source": label}]}).status_code == 422
    assert light.post("/forget/batch/preview", {"sources": [label]}).status_code == 422
    assert light.ledger.seen("cid") == frozenset()


def test_what_was_not_previewed_as_it_is_now_is_not_forgotten(light: OnlineHouse) -> None:
    selection = {"item_ids": ["i0"]}
    digest = preview(light, selection)["digest"]
    assert light.post("/interactions", {"interactions": [_row("bob", "i0")]}).status_code == 200
    refused = light.post("/forget/batch", {"selection": {**selection, "digest": digest}})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:lethe:problem:selection-changed")
    assert light.ledger.seen("bob") == {"i0", "i2"}
    assert light.ledger.requests_after(None, None, 9) == []


@pytest.mark.parametrize(
    "body",
    [
        {"selection": {"item_ids": ["i0"]}},
        {"selection": {"digest": "x"}},
        {"selection": {"item_ids": ["i0"], "digest": "x"}, "user_ids": ["ann"]},
        {},
    ],
)
def test_a_selection_comes_alone_with_a_condition_and_a_digest(light: OnlineHouse, body: dict[str, Any]) -> None:
    assert light.post("/forget/batch", body).status_code == 422
    assert light.post("/forget/batch/preview", {}).status_code == 422


# Rankings


def test_similar_items_are_those_for_whoever_likes_one(light: OnlineHouse) -> None:
    body = {"top_k": 3, "filter": {"year": {"min": 1990}}, "exclude": ["i0"]}
    answer = light.post("/items/i1/similar", body)
    assert (answer.status_code, len(answer.json()["items"])) == (200, 3)
    [query] = light.recommender.queries
    assert (query.opinions, query.exclude, query.user_id) == (((ById("i1"), True),), (ById("i1"), "i0"), None)
    assert len(query.conditions) == 1


def test_documents_are_reranked_in_the_shape_that_clients_send(light: OnlineHouse) -> None:
    body = {
        "model": "rerank-v3",
        "query": "Title 0 (1999)\n\n i1 ",
        "documents": ["first", {"text": "second" + "x" * 600}, "first", "hidden"],
        "top_n": 2,
        "return_documents": True,
        "max_chunks_per_doc": 10,
    }
    told = light.post("/rerank", body).json()
    assert (told["model"], told["object"]) == ("rerank-v3", "list")
    assert [(one["index"], one["document"]["text"][:6]) for one in told["results"]] == [(1, "second"), (0, "first")]
    assert told["results"][0]["relevance_score"] > told["results"][1]["relevance_score"]
    assert light.recommender.queries[0].opinions == (("Title 0 (1999)", True), ("i1", True))
    everything = light.post("/rerank", {**body, "top_n": None, "return_documents": False}).json()["results"]
    assert [one["index"] for one in everything] == [1, 0, 2]
    assert "document" not in everything[0]
    assert light.post("/rerank", {"user_id": "ann", "query": "x", "documents": ["a"]}).status_code == 422
    assert light.post("/rerank", {"query": "x", "documents": []}).status_code == 422


def test_many_people_are_answered_in_lines_in_their_order(light: OnlineHouse) -> None:
    answer = light.post("/recommend/batch", {"user_ids": ["ann", "nobody", "bob"] * 20, "top_k": 2})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["index"] for line in lines] == list(range(60))
    assert ["cold" in line["answer"] for line in lines] == [False, True, False] * 20
    assert all(len(line["answer"]["items"]) == 2 for line in lines)

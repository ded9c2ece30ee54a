"""Answers with ids, events that cite them, and how generations do, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import LedgerUnavailable
from service.records import Impression
from service.scoring.impressions import ImpressionRecorder
from service.scoring.requests import RankBy, Ranked, Recommendation
from tests.entrypoints.online_house import OnlineHouse

ROW = {"user_id": "ann", "item_id": "i0", "liked": True, "timestamp": 1_000}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.thorough)])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineHouse]:
    """Of Ann a row is held, and it is noted what is answered."""
    if request.param == "sqlite":
        opened = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db", impressions=True)
        yield _with_ann(opened)
        opened.ledger.close()
        return
    with request.getfixturevalue("new_database")() as url:
        opened = OnlineHouse(tmp_path, url, impressions=True)
        yield _with_ann(opened)
        opened.ledger.close()


@pytest.fixture
def light(tmp_path: Path) -> Iterator[OnlineHouse]:
    """A house on SQLite, for what does not depend on the database."""
    opened = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db", impressions=True)
    yield _with_ann(opened)
    opened.ledger.close()


def _with_ann(house: OnlineHouse) -> OnlineHouse:
    assert house.post("/interactions", {"interactions": [ROW]}).status_code == 200
    return house


def asked(house: OnlineHouse, **body: Any) -> dict[str, Any]:
    answer = house.post("/recommend", {"user_id": "ann", "top_k": 2, **body})
    assert answer.status_code == 200
    return dict(answer.json())


def exported(house: OnlineHouse, user: str = "ann") -> list[dict[str, Any]]:
    house.impressions.flush()
    return list(house.ask("GET", f"/users/{user}/export").json()["impressions"])


def sent(house: OnlineHouse, *rows: dict[str, Any]) -> dict[str, Any]:
    return dict(house.post("/interactions", {"interactions": rows}).json())


def test_every_answer_has_an_id_of_its_own_that_says_nothing(light: OnlineHouse) -> None:
    ids = {asked(light)["recommendation_id"] for _ in range(3)}
    ids.add(light.post("/recommend", {"history": {}}).json()["recommendation_id"])
    ids.add(light.post("/items/i1/similar", {}).json()["recommendation_id"])
    lines = light.post("/recommend/batch", {"user_ids": ["ann", "nobody"]}).text.splitlines()
    ids.update(json.loads(line)["answer"]["recommendation_id"] for line in lines)
    assert len(ids) == 7
    assert {len(one) for one in ids} == {32}


def test_what_a_known_person_was_shown_is_held_and_what_strangers_were_is_not(house: OnlineHouse) -> None:
    told = asked(house)
    house.post("/recommend", {"user_id": "nobody"})
    house.post("/recommend", {"history": {"liked": ["i1"]}})
    batch = house.post("/recommend/batch", {"user_ids": ["nobody", "ann"], "top_k": 1}).text.splitlines()
    [first, second] = exported(house)
    assert (first["recommendation_id"], first["generation"]) == (told["recommendation_id"], "g")
    assert [one["item_id"] for one in first["items"]] == [item["item_id"] for item in told["items"]]
    assert second["recommendation_id"] == json.loads(batch[1])["answer"]["recommendation_id"]
    assert exported(house, "nobody") == []
    assert 'lethe_impressions_total{outcome="recorded"} 2.0' in house.ask("GET", "/metrics").text


def test_an_event_that_cites_an_answer_is_attributed_to_it(house: OnlineHouse) -> None:
    cited = {"user_id": "ann", "recommendation_id": asked(house)["recommendation_id"]}
    told = sent(
        house,
        {**cited, "item_id": "i0", "event": "view"},  # says nothing, but that they looked
        {**cited, "item_id": "i1", "event": "Play"},
        {**cited, "item_id": "i5", "liked": True},  # was not shown
        {**cited, "item_id": "i1", "liked": True, "recommendation_id": "unknown"},
        {**cited, "item_id": "i1", "event": "wave"},
        {"user_id": "ann", "item_id": "i2", "rating": 4},
        {**cited, "user_id": "bob", "item_id": "i1", "liked": True},
    )
    words = ["ignored", "new", "new", "unchanged", "unknown_event", "new", "new"]
    assert [word if word != "outdated" else "unchanged" for word in told["outcomes"]] == words
    assert told["attributed"] == [True, True, False, False, False, False, False]
    [one] = exported(house)
    marks = {item["item_id"]: (item["attributed"], item["liked"]) for item in one["items"]}
    assert marks == {"i0": (True, False), "i1": (True, True)}
    metrics = house.ask("GET", "/metrics").text
    for kind, attributed in (("view", "yes"), ("play", "yes"), ("opinion", "no"), ("rating", "no"), ("unknown", "no")):
        assert f'lethe_event_kinds_total{{attributed="{attributed}",kind="{kind}"}}' in metrics
    assert "ann" not in metrics


def test_where_no_row_cites_an_answer_nothing_is_said_of_it(light: OnlineHouse) -> None:
    assert "attributed" not in sent(light, ROW)
    told = sent(light, {**ROW, "recommendation_id": "unknown"}, ROW)
    assert told["attributed"] == [False, False]
    assert light.post("/interactions", {"interactions": [{**ROW, "recommendation_id": "a b"}]}).status_code == 422


def test_who_is_forgotten_or_restricted_has_nothing_attributed(light: OnlineHouse) -> None:
    cited = {"user_id": "ann", "item_id": "i1", "event": "view", "recommendation_id": asked(light)["recommendation_id"]}
    assert sent(light, cited)["attributed"] == [True]
    assert light.post("/forget/preview", {"user_id": "ann"}).json()["impressions"] == 1
    assert light.ask("PUT", "/users/ann/restriction", json={"ground": "objection"}).status_code == 200
    assert sent(light, cited)["attributed"] == [False]
    assert light.ask("DELETE", "/users/ann/restriction").json()["lifted"]
    assert sent(light, cited)["attributed"] == [True]
    assert light.post("/forget", {"user_id": "ann"}).json()["counts"]["impressions"] == 1
    assert sent(light, cited)["attributed"] == [False]
    assert exported(light) == []


def test_the_quality_of_a_generation_is_told_of_twenty_people(house: OnlineHouse) -> None:
    people = [f"reader-{number:02}" for number in range(20)]
    sent(house, *({**ROW, "user_id": user} for user in people))
    lines = house.post("/recommend/batch", {"user_ids": people, "top_k": 2}).text.splitlines()
    names = [json.loads(line)["answer"]["recommendation_id"] for line in lines]
    play = {"item_id": "i1", "event": "play"}
    sent(house, *({**play, "user_id": u, "recommendation_id": name} for u, name in zip(people, names, strict=True)))
    told = house.ask("GET", "/quality").json()
    assert told == {
        "smallest_group": 20,
        "generations": [
            {
                "generation": "g",
                "served": False,
                "people": 20,
                "impressions": 20,
                "hit_rate": 1.0,
                "click_through": 0.5,
            }
        ],
    }
    house.post("/forget", {"user_id": people[0]})
    [small] = house.ask("GET", "/quality").json()["generations"]
    assert {name for name, value in small.items() if value is not None} == {"generation", "served"}


# On the way into the ledger


class Away:
    def record(self, given: Any) -> int:
        raise LedgerUnavailable("the database cannot be asked")


class Kept:
    def __init__(self) -> None:
        self.given: list[Impression] = []

    def record(self, given: Any) -> int:
        self.given += given
        return len(given)


def found(*items: str | None, cold: bool = False) -> Recommendation:
    ranked = tuple(Ranked(item, "Title", 0.5, n) for n, item in enumerate(items, 1))
    return Recommendation("g", 7, False, ranked, {}, (), RankBy.MODEL, cold=cold)


def test_impressions_are_lost_rather_than_kept_waiting_for_a_ledger_that_is_away() -> None:
    counts: list[Any] = []
    recorder = ImpressionRecorder(Away(), lambda: 5.0, counts.append, most_waiting=2)
    for number in range(3):
        recorder.note("ann", f"r-{number}", found("i1"))
    recorder.flush()
    recorder.flush()
    assert [dict(one) for one in counts] == [{"lost": 1}, {"lost": 2}]


def test_the_last_ones_are_written_when_it_stops() -> None:
    kept = Kept()
    recorder = ImpressionRecorder(kept, lambda: 5.0, pause=60)
    recorder.start()
    recorder.note("ann", "r", found("i1", None, "i2"))
    recorder.note("ann", "foreign titles alone", found(None))
    recorder.note("ann", "stranger", found("i1", cold=True))
    recorder.note(None, "nobody", found("i1"))
    recorder.stop()
    assert kept.given == [Impression("r", "ann", ("i1", "i2"), "g", 7, 5.0)]

"""Lethe in a ranking answers what a server answers over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from research.evaluation.ranking.lethe import (
    BOTH,
    LANGUAGE,
    MEMORY,
    ROWS,
    SECRET,
    Installation,
    Workshop,
    installed,
)
from research.evaluation.ranking.protocols import HeldOut, by_person, in_order
from service.building.progress import Silent
from service.config import load_settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.serving import serving_app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("installation")


@pytest.fixture(scope="module")
def installation(folder: Path, workshop: Workshop, split: HeldOut) -> Iterator[Installation]:
    opened = Installation(folder, workshop, split, Silent())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def client(installation: Installation, folder: Path, workshop: Workshop) -> Iterator[TestClient]:
    """A real server's application over the same ledger and store."""
    settings = load_settings(home=folder, secret=SECRET.decode(), model=workshop.frozen.spec.name, threads=1)
    with TestClient(serving_app(Home.open(settings), lambda: None, lambda: None), "http://127.0.0.1") as client:
        ends = time.monotonic() + 30
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < ends
            time.sleep(0.02)
        yield client


def over_http(client: TestClient, **asked: Any) -> tuple[str, ...]:
    answer = client.post("/recommend", json=asked)
    assert answer.status_code == 200
    return tuple(item["item_id"] for item in answer.json()["items"])


def test_people_get_what_a_server_gives_them(installation: Installation, client: TestClient, split: HeldOut) -> None:
    for user in split.people:
        assert installation.top(user)[BOTH] == over_http(client, user_id=user, top_k=100)


def test_by_score_the_same_candidates_come_in_the_order_that_a_server_gives_them(
    installation: Installation, client: TestClient, split: HeldOut
) -> None:
    for user in split.people[:10]:
        asked = {"user_id": user, "top_k": 100, "rank_by": "score"}
        assert installation.top(user)[LANGUAGE] == over_http(client, **asked)


def test_strangers_get_what_a_server_gives_them(installation: Installation, client: TestClient, split: HeldOut) -> None:
    own = in_order(by_person(split.train)["p1"])
    for length in (0, 1, 3, 5):
        history = [(row.item_id, row.liked) for row in own[:length]]
        opinions = [{"item": item, "liked": liked} for item, liked in history]
        asked = {"history": {"opinions": opinions}, "top_k": 100}
        assert installation.top_of_stranger(history) == over_http(client, **asked)


@pytest.mark.parametrize(("row", "rank_by"), [(BOTH, "model"), (LANGUAGE, "score")])
def test_items_of_ones_own_choice_are_ranked_as_a_server_ranks_them(
    installation: Installation, client: TestClient, row: str, rank_by: str
) -> None:
    names = ["f3", "f1", "f4", "f15", "f9", "f2", "f6"]
    asked = {"user_id": "p2", "candidates": names, "top_k": 7, "rank_by": rank_by}
    assert installation.ranked("p2", names)[row] == over_http(client, **asked)


def test_all_rows_order_the_same_candidates(installation: Installation, split: HeldOut) -> None:
    top = installation.top(split.people[0])
    assert set(top) == set(ROWS)
    assert set(top[BOTH]) == set(top[MEMORY]) == set(top[LANGUAGE])


def test_nobody_gets_what_they_have_met(installation: Installation, split: HeldOut) -> None:
    own = by_person(split.train)
    assert not any(set(installation.top(u)[BOTH]) & {row.item_id for row in own[u]} for u in split.people[:5])


def test_whoever_has_no_row_is_asked_for_without_a_history(workshop: Workshop, split: HeldOut) -> None:
    gone = split.people[0]
    without = replace(split, train=tuple(row for row in split.train if row.user_id != gone))
    with installed(workshop, without, Silent()) as opened:
        assert opened.top(gone)[BOTH] == opened.top_of_stranger([])


def test_to_forget_somebody_leaves_what_would_be_without_them(workshop: Workshop, split: HeldOut) -> None:
    gone, asking = split.people[0], split.people[1:6]
    without = replace(split, train=tuple(row for row in split.train if row.user_id != gone))
    with installed(workshop, split, Silent()) as one, installed(workshop, without, Silent()) as other:
        assert one.forget(gone) > 0
        assert [one.top(user) for user in asking] == [other.top(user) for user in asking]

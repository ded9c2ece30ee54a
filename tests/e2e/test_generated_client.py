"""A client that openapi-python-client makes from the contract, against a server behind a prefix."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from tests.client.generated import generated_from

from .conftest import ALONE, BYSTANDER, TITLES, Installation, Server

PREFIX = "/lethe"


@pytest.fixture(scope="module")
def server(copies: Callable[..., Installation]) -> Iterator[Server]:
    """Nothing may wait beside another request, so that several at once are too many."""
    with copies(LETHE_ROOT_PATH=PREFIX, LETHE_MAX_QUEUED_TOKENS="1").serving_ready(ALONE) as running:
        yield running


@pytest.fixture(scope="module")
def generated(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ModuleType]]:
    """A function: name of a module -> that module of the client that was made from the server's own document."""
    with generated_from(server.get("/openapi.json").text, tmp_path_factory.mktemp("generated")) as module:
        yield module


@pytest.fixture
def client(server: Server, generated: Callable[[str], ModuleType]) -> Iterator[Any]:
    with generated("").Client(base_url=f"http://127.0.0.1:{server.port}{PREFIX}", timeout=60) as opened:
        yield opened


def test_a_ranking_is_an_object_of_the_client(client: Any, generated: Callable[[str], ModuleType]) -> None:
    models, recommend = generated("models"), generated("api.default.recommend")
    answer = recommend.sync(client=client, body=models.RecommendForUser(user_id=BYSTANDER, top_k=3))
    assert isinstance(answer, models.RecommendAnswer)
    assert [item.rank for item in answer.items] == [1, 2, 3]
    history = models.History(liked=TITLES[:2])
    stranger = recommend.sync(client=client, body=models.RecommendForHistory(history=history, candidates=TITLES[5:7]))
    assert {item.title for item in stranger.items} == set(TITLES[5:7])


def test_a_deletion_can_be_followed_and_its_refusals_are_problems(
    client: Any, generated: Callable[[str], ModuleType]
) -> None:
    models = generated("models")
    accepted = generated("api.default.forget").sync(client=client, body=models.ForgetBody(user_id="never-held"))
    assert isinstance(accepted, models.ForgetAnswer)
    status = generated("api.default.forget_status")
    found = status.sync(client=client, request_id=accepted.request_id)
    assert isinstance(found, models.ForgetStatus)
    unknown = status.sync_detailed(client=client, request_id="no-such-request")
    assert unknown.status_code == 404
    assert isinstance(unknown.parsed, models.Problem)
    assert unknown.parsed.type_ == "urn:lethe:problem:unknown-request"


def test_an_invalid_request_says_where_it_is_wrong(client: Any, generated: Callable[[str], ModuleType]) -> None:
    models = generated("models")
    body = models.RecommendForUser(user_id=BYSTANDER, top_k=0)
    refused = generated("api.default.recommend").sync_detailed(client=client, body=body)
    assert refused.status_code == 422
    assert isinstance(refused.parsed, models.Problem)
    assert [(type(fault), fault.location) for fault in refused.parsed.errors] == [(models.Fault, "body.top_k")]


def test_too_much_at_once_is_a_problem_that_says_when_to_come_again(
    client: Any, generated: Callable[[str], ModuleType]
) -> None:
    models, recommend = generated("models"), generated("api.default.recommend")
    body = models.RecommendForHistory(history=models.History(liked=TITLES[:5]), candidates=TITLES)
    refused: list[Any] = []
    with ThreadPoolExecutor(16) as threads:
        while not refused:
            answers = threads.map(lambda _: recommend.sync_detailed(client=client, body=body), range(32))
            refused = [answer for answer in answers if answer.status_code == 429]
    assert isinstance(refused[0].parsed, models.Problem)
    assert refused[0].parsed.status == json.loads(refused[0].content)["status"] == 429
    assert int(refused[0].headers["Retry-After"]) >= 1


def test_a_probe_may_ask_for_the_headers_alone(server: Server) -> None:
    for path in ("/healthz", f"{PREFIX}/healthz", "/docs"):
        assert (server.client.head(path).status_code, server.client.head(path).content) == (200, b"")

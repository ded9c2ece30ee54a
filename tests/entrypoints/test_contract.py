"""The published contract, and the habits of HTTP that clients, probes and proxies rely on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from service.entrypoints.http.problems import MEDIA_TYPE
from tests.entrypoints.online_house import OnlineHouse
from tests.entrypoints.test_api import Door

METHODS = {"get", "post"}


@pytest.fixture(scope="module", params=["ordered", "online"])
def document(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the routes that the service was ordered with, and of those of the online service beside them."""
    if request.param == "ordered":
        return dict(Door().get("/openapi.json").json())
    folder = tmp_path_factory.mktemp("house")
    house = OnlineHouse(folder, f"sqlite:///{folder}/ledger.db")
    found = dict(house.ask("GET", "/openapi.json").json())
    house.ledger.close()
    return found


def schemas_in(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema of a request or a response in a part of the document."""
    if isinstance(node, dict):
        yield from (node["schema"],) if "schema" in node else ()
        for value in node.values():
            yield from schemas_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from schemas_in(value)


def references_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (node["$ref"],) if isinstance(node.get("$ref"), str) else ()
        for value in node.values():
            yield from references_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from references_in(value)


# The document


def test_every_answer_that_may_come_is_documented(document: dict[str, Any]) -> None:
    recommend, forget = document["paths"]["/recommend"]["post"], document["paths"]["/forget"]["post"]
    assert {"400", "404", "408", "413", "415", "422", "429", "503"} <= recommend["responses"].keys()
    assert {"202", "400", "409", "422"} <= forget["responses"].keys()


def test_every_model_is_a_named_component_with_an_example(document: dict[str, Any]) -> None:
    named = document["components"]["schemas"]
    for schema in schemas_in([document["paths"][path] for path in document["paths"]]):
        assert "properties" not in schema, "a model without a name"
        assert "$defs" not in schema
    for name, schema in named.items():
        assert "$defs" not in schema, name
        assert name in {"RankedItem", "ServedShard"} or schema["examples"], name
    assert {reference.rpartition("/")[2] for reference in references_in(document)} == set(named)


def test_every_refusal_is_the_one_named_problem(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method in METHODS & operations.keys():
            for status, response in operations[method]["responses"].items():
                if int(status) >= 400:
                    content = response["content"]
                    assert content == {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}, (path, status)


def test_operations_have_plain_names_each_its_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert {"recommend", "forget", "forget_status", "forget_receipt"} <= set(names)
    assert len(names) == len(set(names))


def test_the_schema_says_that_a_user_and_a_history_exclude_each_other(document: dict[str, Any]) -> None:
    named = document["components"]["schemas"]
    forms = [named[reference["$ref"].rpartition("/")[2]] for reference in named["RecommendBody"]["oneOf"]]
    by_field = {form["required"][0]: form for form in forms}
    assert by_field.keys() == {"user_id", "history"}
    for field, other in (("user_id", "history"), ("history", "user_id")):
        form = by_field[field]
        assert form["additionalProperties"] is False
        assert field in form["properties"]
        assert other not in form["properties"]
        assert "anyOf" not in form["properties"][field]  # not null
        assert form["properties"].keys() - {field} == by_field[other]["properties"].keys() - {other}
        assert all(field in example for example in form["examples"])


@pytest.mark.parametrize("body", [{}, {"user_id": "1", "history": {}}, {"user_id": None, "history": None}])
def test_what_the_schema_excludes_is_refused(body: dict[str, Any]) -> None:
    assert Door().post("/recommend", body).status_code == 422


# HEAD


def test_head_is_answered_wherever_get_is(document: dict[str, Any]) -> None:
    paths = [path for path, operations in document["paths"].items() if "get" in operations and path != "/metrics"]
    known = [path.replace("{request_id}", identifier) for path in paths for identifier in ("r1", "no-such")]
    for path in {*known, "/openapi.json", "/docs", "/docs/static/swagger-ui.css", "/none", "/recommend"}:
        head, get = Door().call("HEAD", path), Door().get(path)
        assert (head.status_code, dict(head.headers)) == (get.status_code, dict(get.headers)), path
        assert head.content == b""
        assert get.content
    assert Door().call("HEAD", "/metrics").status_code == 200


def test_head_is_counted_as_head() -> None:
    door = Door()
    door.call("HEAD", "/forget/no-such")
    assert door.metric('lethe_http_requests_total{method="HEAD",route="/forget/{request_id}",status="404"} 1.0')


def test_who_may_ask_with_get_is_told_that_head_may_be_asked_too() -> None:
    assert Door().post("/healthz", {}).headers["allow"] == "GET, HEAD"


# Behind a prefix


@pytest.mark.parametrize("prefix", ["", "/lethe"])
def test_behind_a_prefix_paths_work_whether_or_not_the_proxy_takes_it_off(prefix: str) -> None:
    door = Door(root_path="/lethe")
    assert door.get(f"{prefix}/healthz").status_code == 200
    accepted = door.post(f"{prefix}/forget", {"user_id": "196"})
    assert accepted.headers["location"] == f"/lethe/forget/{accepted.json()['request_id']}"
    assert door.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/lethe"}]
    assert door.metric('lethe_http_requests_total{method="GET",route="/healthz",status="200"} 1.0')


def test_without_a_prefix_a_location_is_that_of_the_status() -> None:
    assert Door().post("/forget", {"user_id": "196"}).headers["location"].startswith("/forget/")


# The page of documentation


@pytest.mark.parametrize("prefix", ["", "/lethe"])
def test_the_page_of_documentation_fetches_nothing_from_elsewhere(prefix: str) -> None:
    door = Door(root_path=prefix)
    page = door.get("/docs")
    assert page.status_code == 200
    assert "//" not in re.sub(r"<!--.*?-->", "", page.text).replace("// ", "")
    files = re.findall(r"(?:src|href)=\"([^\"]+)\"|url: '([^']+)'", page.text)
    paths = [source or url for source, url in files]
    assert len(paths) == 4  # script, style, icon, document
    for path in paths:
        assert path.startswith(f"{prefix}/")
        assert door.get(path).status_code == 200, path

"""The client covers the contract: a method for each operation, a parameter for each field, models that are the schemas."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from lethe_client import AsyncClient, Client, calls

from .models_from_contract import MODELS, contract, source_of

# Calls that are no operation of their own: what the client answers of one in another form.
FORMS = {"export_user_csv"}
# Parameters of the contract that calls do not take: the method says it already.
SAID_BY_THE_CALL = {"export_user": {"format"}}
# Bodies that a call takes as one model, and not field by field: null and what is left out are two things there, or it is long.
WHOLE = {"put_item", "patch_item"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return contract()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for methods in document["paths"].values():
        for operation in methods.values():
            yield operation["operationId"], operation


def fields_of(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Field of the body (of any of its forms) -> its schema."""
    content = operation.get("requestBody", {}).get("content", {})
    found: dict[str, dict[str, Any]] = {}
    for reference in [media["schema"]["$ref"] for media in content.values()]:
        named = document["components"]["schemas"]
        schema = named[reference.rpartition("/")[2]]
        for form in schema.get("oneOf", [{"$ref": reference}]):
            found |= named[form["$ref"].rpartition("/")[2]]["properties"]
    return found


def methods_of(client: type) -> dict[str, inspect.Signature]:
    public = inspect.getmembers(client, inspect.isfunction)
    return {name: inspect.signature(function) for name, function in public if not name.startswith("_")}


def test_the_models_are_what_the_document_says(document: dict[str, Any]) -> None:
    assert MODELS.read_text() == source_of(document), "run `make client-models`"


def test_every_operation_has_a_call(document: dict[str, Any]) -> None:
    made = {name for name, function in inspect.getmembers(calls, inspect.isfunction) if not name.startswith("_")}
    own = {name for name in made if getattr(calls, name).__module__ == calls.__name__}
    assert own - FORMS == {name for name, _ in operations(document)}


def test_every_call_takes_what_the_contract_takes_with_its_defaults(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        taken = inspect.signature(getattr(calls, name)).parameters
        stated = {one["name"].replace("-", "_").lower(): one["schema"] for one in operation.get("parameters", ())}
        fields = {"body": {}} if name in WHOLE else fields_of(document, operation)
        said = SAID_BY_THE_CALL.get(name, set())
        wanted = {field: schema for field, schema in (stated | fields).items() if field not in said}
        assert taken.keys() == wanted.keys(), name
        for parameter, schema in wanted.items():
            if schema.get("default") not in (None, []):
                assert taken[parameter].default == schema["default"], (name, parameter)


def test_every_call_goes_where_the_document_says(document: dict[str, Any]) -> None:
    given: dict[str, Any] = {"interactions": [], "items": [], "body": {"title": "T"}, "ground": "objection", "first": 0}
    lists = {"user_ids": ["{user_id}"], "item_ids": ["{item_id}"], "documents": ["d"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            make = getattr(calls, operation["operationId"])
            needed = [name for name, one in inspect.signature(make).parameters.items() if one.default is one.empty]
            needed += {"recommend": ["user_id"], "forget_batch": ["user_ids"]}.get(operation["operationId"], [])
            call = make(**{name: {**given, **lists}.get(name, f"{{{name}}}") for name in needed})
            plain = call.path.replace("%7B", "{").replace("%7D", "}")
            assert (call.method, plain) == (method.upper(), path)


def test_both_clients_have_all_calls_with_the_same_parameters() -> None:
    one, other = methods_of(Client), methods_of(AsyncClient)
    parameters = {name: list(signature.parameters.values()) for name, signature in one.items()}
    assert parameters == {name: list(signature.parameters.values()) for name, signature in other.items()}
    for name, function in inspect.getmembers(calls, inspect.isfunction):
        if not name.startswith("_") and function.__module__ == calls.__name__:
            assert parameters[name][1:] == list(inspect.signature(function).parameters.values()), name
            assert getattr(Client, name).__doc__ == getattr(AsyncClient, name).__doc__ == function.__doc__

"""What the API promises, as an OpenAPI document from which clients are generated: each of its models has a name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.entrypoints.http.forgetting_schemas import BatchForgetBody
from service.entrypoints.http.people_schemas import ExportAnswer
from service.entrypoints.http.ranking_schemas import BatchLine
from service.entrypoints.http.recommend_schemas import RecommendBody
from service.entrypoints.http.schemas import Problem, SignedReceipt

# Responses of these are made by hand, so that FastAPI does not know of them.
_MODELS: tuple[type[BaseModel], ...] = (BatchLine, ExportAnswer, Problem, SignedReceipt)
# Bodies of which a validator wants exactly one of some fields -> the name of the body with each of these.
_ONE_OF: dict[type[BaseModel], dict[str, str]] = {
    BatchForgetBody: {"user_ids": "BatchForgetUsers", "selection": "BatchForgetSelection"},
    RecommendBody: {"user_id": "RecommendForUser", "history": "RecommendForHistory"},
}
_TEMPLATE = "#/components/schemas/{model}"


def reference_to(model: type[BaseModel]) -> dict[str, str]:
    """The schema that stands for a model wherever it is used."""
    return {"$ref": _TEMPLATE.format(model=model.__name__)}


def with_named_models(document_of: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """FastAPI's maker of the document -> one whose document names every model, and each form of a body that has several."""

    def completed() -> dict[str, Any]:
        document = copy.deepcopy(document_of())  # it keeps its own
        paths = json.dumps(document["paths"])
        used = [model for model in _MODELS if json.dumps(reference_to(model))[1:-1] in paths]
        _, schemas = models_json_schema([(model, "serialization") for model in used], ref_template=_TEMPLATE)
        named = document["components"]["schemas"]
        named.update(schemas["$defs"])
        for model, bodies in _ONE_OF.items():
            if model.__name__ not in named:
                continue  # of a route that this process does not have
            whole = named[model.__name__]
            named.update({name: _with_one(whole, name, field, bodies) for field, name in bodies.items()})
            named[model.__name__] = _one_of(whole, list(bodies.values()))
        return document

    return completed


def _with_one(whole: dict[str, Any], name: str, field: str, bodies: Collection[str]) -> dict[str, Any]:
    """The schema of the body that has `field`, and none of the others that exclude it."""
    properties = {key: value for key, value in whole["properties"].items() if key == field or key not in bodies}
    properties[field] = next(form for form in properties[field]["anyOf"] if form.get("type") != "null")
    examples = [example for example in whole["examples"] if field in example]
    required = [*whole.get("required", ()), field]
    return {**whole, "title": name, "properties": properties, "required": required, "examples": examples}


def _one_of(whole: dict[str, Any], names: list[str]) -> dict[str, Any]:
    kept = {key: whole[key] for key in ("title", "description", "examples")}
    return {**kept, "oneOf": [{"$ref": _TEMPLATE.format(model=name)} for name in names]}


def publish_contract(app: FastAPI) -> None:
    """Let the application's `/openapi.json` be the whole contract."""
    app.openapi = with_named_models(app.openapi)  # type: ignore[method-assign] # as FastAPI's manual has it

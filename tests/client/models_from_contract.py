"""The models of `lethe_client`, made from the OpenAPI document.

    python -m tests.client.models_from_contract

writes them anew; `test_models.py` fails where they are not what the document says.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.entrypoints.online_house import OnlineHouse

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "client" / "lethe_client" / "models.py"

_HEAD = '''"""The models of Lethe's HTTP API. Made from its OpenAPI document by `make client-models`: do not edit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from lethe_client.shapes import Answer, Body, Open, OpenAnswer
'''
_PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_DOCSTRING_WIDTH = 110

Schema = Mapping[str, Any]


def contract() -> dict[str, Any]:
    """The OpenAPI document with every route."""
    with tempfile.TemporaryDirectory() as folder:
        house = OnlineHouse(Path(folder), f"sqlite:///{folder}/ledger.db")
        found = dict(house.ask("GET", "/openapi.json").json())
        house.ledger.close()
    return found


def source_of(document: Schema) -> str:
    """A module with a model for each component of the document, formatted as all sources are."""
    named = document["components"]["schemas"]
    models = [_model(name, schema) for name, schema in sorted(named.items()) if "properties" in schema]
    unions = [f"{name} = {_type(schema)}" for name, schema in sorted(named.items()) if "properties" not in schema]
    text = "\n\n".join([_HEAD, *models, "\n".join(unions)])
    return _formatted(text)


def _model(name: str, schema: Schema) -> str:
    closed = schema.get("additionalProperties")
    base = {False: "Body", True: "OpenAnswer", None: "Answer"}[closed]
    required = schema.get("required", ())
    answers = base != "Body"
    fields = [_field(key, value, key in required, answers) for key, value in schema["properties"].items()]
    return "\n".join([f"class {name}({base}):", *_docstring(schema, name), "", *fields])


def _docstring(schema: Schema, name: str) -> Iterator[str]:
    text = schema.get("description") or f"`{name}` of the contract."
    paragraphs = [re.sub(r"\s+", " ", part) for part in text.split("\n\n")]
    wrapped = "\n\n".join(textwrap.fill(part, _DOCSTRING_WIDTH) for part in paragraphs)
    end = "\n" if "\n" in wrapped else ""
    yield textwrap.indent(f'"""{wrapped}{end}"""', "    ")


def _field(key: str, schema: Schema, required: bool, answers: bool) -> str:
    attribute = re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1].lower()}", key)
    kind = _type(schema, answers)
    alias = "" if attribute == key else f'alias="{key}"'
    if required:
        return f"    {attribute}: {kind}" + (f" = Field({alias})" if alias else "")
    default = schema.get("default")
    if default is None and not kind.endswith("| None"):
        kind += " | None"
    if default in ([], {}):
        return f"    {attribute}: {kind} = Field(default_factory={type(default).__name__})"
    stated = json.dumps(default) if isinstance(default, str) else repr(default)
    return f"    {attribute}: {kind} = {stated}"


def _type(schema: Schema, answers: bool = False) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if forms := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(_type(form, answers) for form in forms)
    if "enum" in schema or "const" in schema:
        words = f"Literal[{', '.join(map(json.dumps, schema.get('enum') or [schema['const']]))}]"
        return f"Annotated[{words}, Open]" if answers and "enum" in schema else words
    kind = str(schema.get("type"))
    if kind == "object":
        return _mapping(schema, answers)
    if kind == "array":
        return f"list[{_type(schema['items'], answers)}]"
    return "datetime" if schema.get("format") == "date-time" else _PLAIN[kind]


def _mapping(schema: Schema, answers: bool) -> str:
    values = schema.get("additionalProperties")
    kind = _type(values, answers) if isinstance(values, dict) else "Any"
    names = schema.get("propertyNames", {})
    return f"dict[{_type(names, answers) if 'enum' in names else 'str'}, {kind}]"


def _formatted(text: str) -> str:
    ruff = [sys.executable, "-m", "ruff"]
    name = ["--stdin-filename", str(MODELS)]
    for command in (["check", "--select", "I,F401", "--fix", "--quiet"], ["format", "--quiet"]):
        done = subprocess.run([*ruff, *command, *name, "-"], input=text, capture_output=True, text=True, check=True)
        text = done.stdout
    return text


if __name__ == "__main__":
    MODELS.write_text(source_of(contract()))

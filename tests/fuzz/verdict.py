"""What an answer must be: documented, of the documented form, no failure, and no echo of anybody."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from .wire import Answered, Asked

PROBLEM = "application/problem+json"
_BY_ANY = frozenset({400, 404, 405, 408, 413, 414, 415, 421, 429, 431, 501})  # of what is no documented request
_PARSER = b"Invalid HTTP request received."  # uvicorn's own answer to what is no HTTP


@dataclass(frozen=True)
class Fault:
    """`kind`: failure, schema, echo, silence."""

    kind: str
    what: str
    asked: Asked


class Judge:
    """Holds answers against the OpenAPI document, and against texts that may not turn up in a refusal."""

    def __init__(self, document: Mapping[str, Any], secrets: Collection[str]) -> None:
        self._document = document
        self._echo = re.compile(b"|".join(re.escape(text.encode()) for text in secrets), re.IGNORECASE)
        self._validators: dict[int, Any] = {}

    def faults(self, asked: Asked, answer: Answered) -> list[Fault]:
        """Whatever is wrong with it."""
        found = [Fault(kind, what, asked) for kind, what in self._wrong(asked, answer)]
        if self.echoes(answer) and answer.status >= 400:
            found.append(Fault("echo", f"{answer.status} repeats what was sent or is held", asked))
        return found

    def echoes(self, answer: Answered) -> bool:
        """Whether body or headers hold one of the texts."""
        headers = "\n".join(answer.headers.values()).encode(errors="replace")
        return self._echo.search(answer.body + b"\n" + headers) is not None

    def holds(self, content: bytes) -> bool:
        """Whether a log, or the metrics, hold one of the texts."""
        return self._echo.search(content) is not None

    def _wrong(self, asked: Asked, answer: Answered) -> list[tuple[str, str]]:
        if answer.status == 0:
            return [] if asked.what in _MAY_BE_CUT_OFF else [("silence", "the connection ended without an answer")]
        if answer.status == 503 and answer.headers.get("retry-after", "").isdigit():
            return self._against_document(asked, answer)
        if answer.status >= 500:
            return [("failure", f"status {answer.status}")]
        return self._against_document(asked, answer)

    def _against_document(self, asked: Asked, answer: Answered) -> list[tuple[str, str]]:
        if answer.status >= 400 and answer.body == _PARSER:
            return []
        operation = self._document["paths"].get(asked.template, {}).get(asked.method.lower())
        if operation is None or asked.what in _NOT_THE_OPERATION:
            return self._of_no_operation(asked, answer)
        documented = operation["responses"].get(str(answer.status))
        if documented is None:
            return [("schema", f"status {answer.status} is not documented")]
        content = documented.get("content", {})
        if not content or asked.method == "HEAD":
            return [("schema", f"{answer.status} has a body")] if answer.body else []
        if answer.media_type not in content:
            return [("schema", f"{answer.status} is {answer.media_type}")]
        return self._of_schema(content[answer.media_type]["schema"], answer)

    def _of_no_operation(self, asked: Asked, answer: Answered) -> list[tuple[str, str]]:
        if answer.status < 400 or asked.method == "HEAD":
            return []
        if answer.status in _BY_ANY | {401, 403, 409, 422, 503} and answer.media_type == PROBLEM:
            return []
        return [("schema", f"{answer.status} {answer.media_type} is no documented refusal")]

    def _of_schema(self, schema: Mapping[str, Any], answer: Answered) -> list[tuple[str, str]]:
        if answer.media_type == "application/x-ndjson":
            return [wrong for line in answer.body.splitlines() for wrong in self._of_json(_LINE, line)]
        if not answer.media_type.endswith("json"):
            return []
        return self._of_json(schema, answer.body)

    def _of_json(self, schema: Mapping[str, Any], body: bytes) -> list[tuple[str, str]]:
        try:
            value = json.loads(body, parse_constant=_no_constant)
        except ValueError:
            return [("schema", "the body is no JSON")]
        validator = self._validators.get(id(schema))
        if validator is None:
            whole = {**schema, "components": self._document["components"]}
            validator = self._validators[id(schema)] = jsonschema_rs.Draft202012Validator(whole)
        wrong = next(iter(validator.iter_errors(value)), None)
        return [] if wrong is None else [("schema", f"{list(wrong.instance_path)}: not as documented")]


_LINE: Mapping[str, Any] = {"type": "object", "required": ["index"]}
_MAY_BE_CUT_OFF = frozenset({"length", "transfer", "trailer", "head", "no http", "method", "host"})
_NOT_THE_OPERATION = frozenset({"path", "method", "host", "no http", "head", "length", "transfer", "trailer"})


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")

"""schemathesis over the OpenAPI document of a running server: every check, requests alone and in sequences."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis import engine
from schemathesis.engine import events

from .house import House
from .verdict import Judge
from .wire import Answered, Asked

# What a schema cannot say of a request: rules between its fields, that a cursor is one that an answer gave, what sizes the
# log of receipts has now.
SAID_IN_WORDS = (
    "Give exactly one of user_id and history",
    "Give exactly one of user_ids and selection",
    "Give at least one condition",
    "the first size is not between",
    "the log has",
    "the receipt came into the log later",
    "Give either opinions, or liked and disliked",
    "Give liked, a rating or both",
    "Give min, max or both",
    "Give user_id or a query, not both",
    "Give a time between the years 1 and 9999",
    "A cursor pages through the catalog",
    "This is no cursor that an answer gave",
    "the cursor is none that this list gave",
    "available_until must come after available_from",
    "two items have one id",
    "the two users are one already",
)
_REFUSED = [400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 421, 422, 429, 431, "5xx"]


@dataclass
class Outcome:
    """How many requests were made in each phase, how they were answered, and each kind of failure with its first text."""

    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)  # for which the generator found no request


def explore(house: House, judge: Judge, examples: int, seed: int, covering: bool = True) -> Outcome:
    """At most `examples` generated requests of each operation and phase; `judge` looks at every answer beside the checks.

    With `covering`, also every bound of every field: thousands of requests.
    """
    config = schemathesis.Config.from_dict(_config(house, examples, seed, covering))
    url = f"http://127.0.0.1:{house.server.port}/openapi.json"
    schema = schemathesis.openapi.from_url(url, config=config, headers=_bearer(house))
    outcome = Outcome()
    for event in engine.from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _note(outcome, event, judge)
        elif isinstance(event, (events.NonFatalError, events.FatalError)):
            told = f"{getattr(event, 'label', '')}: {getattr(event, 'info', None) or event}"
            (outcome.untried if "Cannot generate" in told else outcome.errors).append(told)
    return outcome


def _bearer(house: House) -> dict[str, str]:
    return {"Authorization": f"Bearer {house.keys['all']}"}


def _config(house: House, examples: int, seed: int, covering: bool) -> dict[str, Any]:
    return {
        "headers": _bearer(house),
        "seed": seed,
        "continue-on-failure": True,
        "request-timeout": 60,
        "generation": {"max-examples": examples, "no-shrink": True, "database": "none"},
        "checks": {
            "positive_data_acceptance": {"expected-statuses": ["2xx", 401, 403, 404, 409, 413, 414, 429, 431, "5xx"]},
            "negative_data_rejection": {"expected-statuses": _REFUSED},
        },
        "phases": {"coverage": {"enabled": covering}},
    }


def _note(outcome: Outcome, event: events.ScenarioFinished, judge: Judge) -> None:
    recorder = event.recorder
    outcome.cases[event.phase.name.lower()] += len(recorder.interactions)
    for case_id, interaction in recorder.interactions.items():
        response = interaction.response
        if response is None:
            outcome.errors.append(f"{recorder.label}: no answer")
            continue
        outcome.statuses[response.status_code] += 1
        said = Answered(response.status_code, _flat(response.headers), response.content or b"")
        asked = Asked(interaction.request.method, interaction.request.uri.encode("utf-8", "replace"))
        for fault in judge.faults(asked, said):
            _fail(outcome, f"{fault.kind}: {recorder.label}", fault.what)
        for check in recorder.checks.get(case_id, ()):
            failure = None if check.failure_info is None else check.failure_info.failure
            if failure is None or (check.name == "positive_data_acceptance" and _said_in_words(response.content)):
                continue
            if check.name == "negative_data_rejection" and _is_a_long_id(str(failure), response.status_code):
                continue
            _fail(outcome, f"{check.name}: {recorder.label}", f"{failure}\n{response.text[:400]}\n{_told(interaction)}")


def _told(interaction: Any) -> str:
    body = interaction.request.body or b""
    return f"{interaction.request.method} {interaction.request.uri[:300]} {body[:600]!r}"


def _fail(outcome: Outcome, kind: str, text: str) -> None:
    outcome.failed[kind] += 1
    outcome.failures.setdefault(kind, text)


def _flat(headers: Mapping[str, list[str]]) -> dict[str, str]:
    return {name.lower(): ", ".join(values) for name, values in headers.items()}


def _is_a_long_id(failure: str, status: int) -> bool:
    """Padded with white space, or decomposed, an id may be longer than it is: its description says so, no schema can."""
    return status < 300 and re.search(r"`(user_id|item_id)` in path - violates `maxLength`", failure) is not None


def _said_in_words(content: bytes | None) -> bool:
    try:
        problem = json.loads(content or b"")
    except ValueError:
        return False
    if not isinstance(problem, dict) or problem.get("status") != 422:
        return False
    told = [fault["message"] for fault in problem.get("errors", ())] or [problem["detail"]]
    return all(message.startswith(SAID_IN_WORDS) for message in told)

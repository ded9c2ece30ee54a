"""Errors as RFC 9457 problem documents. The one place that knows which error has which HTTP status."""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service import errors
from service.entrypoints.http.contract import reference_to
from service.entrypoints.http.schemas import FORMS, Fault, Problem

MEDIA_TYPE = "application/problem+json"
RECEIPT_RETRY_AFTER = 5  # seconds: a shard trains for longer than this, so asking more often tells nothing

_URN = "urn:lethe:problem:"
_HIDDEN = "The request failed inside the server. Its log says more."


@dataclass(frozen=True, slots=True)
class Kind:
    """How one class of error looks from outside. `retry_after` is in seconds; an `Overloaded` states its own."""

    status: int
    slug: str
    title: str
    retry_after: int | None = None


KINDS: Mapping[type[errors.LetheError], Kind] = {
    errors.LetheError: Kind(500, "internal", "Internal error"),
    errors.InvalidInput: Kind(422, "invalid-input", "Invalid input"),
    errors.ImportRefused: Kind(422, "import-refused", "Import refused"),
    errors.InvalidSetting: Kind(500, "invalid-setting", "Invalid setting"),
    errors.UnknownUser: Kind(404, "unknown-user", "Unknown user"),
    errors.UnknownItem: Kind(404, "unknown-item", "Unknown item"),
    errors.UnknownInteraction: Kind(404, "unknown-interaction", "Unknown interaction"),
    errors.UnknownRestraint: Kind(404, "unknown-restraint", "Unknown restraint"),
    errors.UnknownRequest: Kind(404, "unknown-request", "Unknown forget request"),
    errors.IdempotencyConflict: Kind(409, "idempotency-conflict", "Idempotency key already used"),
    errors.MergeRefused: Kind(409, "merge-refused", "Merge refused"),
    errors.SelectionChanged: Kind(409, "selection-changed", "Selection changed"),
    errors.ModelUnsuitable: Kind(503, "model-unsuitable", "Model unsuitable", 60),
    errors.StoreError: Kind(503, "store-unavailable", "Store unavailable", 5),
    errors.Damaged: Kind(503, "store-damaged", "Store damaged", 60),
    errors.NotReady: Kind(503, "not-ready", "Not ready", 5),
    errors.LedgerUnavailable: Kind(503, "ledger-unavailable", "Ledger unavailable", 5),
    errors.SecretChanged: Kind(503, "secret-changed", "Secret changed", 60),
    errors.LedgerNewer: Kind(503, "ledger-newer", "Ledger of a later version", 60),
    errors.IdentityUnavailable: Kind(503, "identity-unavailable", "Identity provider unavailable", 5),
    errors.ReceiptInvalid: Kind(500, "receipt-invalid", "Receipt invalid"),
    errors.ProofInvalid: Kind(500, "proof-invalid", "Proof invalid"),
    errors.NotDelivered: Kind(503, "not-delivered", "Notification not delivered", 60),
    errors.OutOfMemory: Kind(503, "out-of-memory", "Out of memory", 5),
    errors.AccessRefused: Kind(403, "access-refused", "Access refused"),
    errors.Unauthenticated: Kind(401, "unauthenticated", "API key needed"),
    errors.Forbidden: Kind(403, "forbidden", "API key without this scope"),
    errors.TooLarge: Kind(413, "too-large", "Too much for one request"),
    errors.Overloaded: Kind(429, "overloaded", "Too much is waiting"),
    errors.QuotaExceeded: Kind(429, "quota-exceeded", "Quota used up"),
    errors.TimedOut: Kind(503, "timed-out", "Not answered in time"),
}


def problem_from(error: Exception) -> JSONResponse:
    """The response for any exception. What is not ours tells nothing of itself."""
    match error:
        case errors.LetheError():
            return _of_lethe(error)
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            title = http.HTTPStatus(error.status_code).phrase
            return _document(Problem(title=title, status=error.status_code, detail=error.detail), error.headers)
        case _:
            return _document(Problem(type=f"{_URN}internal", title="Internal error", status=500, detail=_HIDDEN))


def receipt_not_ready() -> JSONResponse:
    """409: the deletion is not completed, so there is nothing to sign yet."""
    detail = "The deletion is not completed yet. Its masks hold already; ask again later for the receipt."
    kind = Kind(409, "receipt-not-ready", "Receipt not ready", RECEIPT_RETRY_AFTER)
    return _of_kind(kind, detail, kind.retry_after)


async def handle(_: Request, error: Exception) -> JSONResponse:
    """`problem_from`, as the router wants it."""
    return problem_from(error)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of problem responses with these statuses."""
    return {status: _documented(status) for status in statuses}


def documented_header(description: str, kind: str = "string") -> dict[str, Any]:
    """The OpenAPI entry of a response's header."""
    return {"description": description, "schema": {"type": kind}}


RATE_LIMIT_HEADERS = {
    "RateLimit-Policy": documented_header("Which quota counts here, and how much it grants in 60 seconds"),
    "RateLimit": documented_header("How much of it is left, and in how many seconds all of it is there again"),
}
_RETRY_AFTER = {"Retry-After": documented_header("Seconds after which to ask again", "integer")}
_HEADERS: Mapping[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": documented_header("How to send a key")},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}


def _documented(status: int) -> dict[str, Any]:
    answer = {
        "description": http.HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": reference_to(Problem)}},
    }
    return answer if status not in _HEADERS else {**answer, "headers": _HEADERS[status]}


def _of_lethe(error: errors.LetheError) -> JSONResponse:
    kind = next(KINDS[kind] for kind in type(error).__mro__ if kind in KINDS)
    retry_after = error.retry_after if isinstance(error, errors.Overloaded) else kind.retry_after
    document = _of_kind(kind, _HIDDEN if kind.status == 500 else str(error), retry_after)
    if isinstance(error, errors.Unauthenticated):
        document.headers["WWW-Authenticate"] = 'Bearer realm="lethe"'
    if isinstance(error, errors.QuotaExceeded):
        document.headers.update(rate_limit_headers(error.kind, error.limit, error.left, error.retry_after))
    return document


def rate_limit_headers(kind: str, limit: int, left: int, seconds: int) -> dict[str, str]:
    """The fields of the IETF's draft: how much a minute, how much is left, and in how many seconds there is more."""
    return {"RateLimit-Policy": f'"{kind}";q={limit};w=60', "RateLimit": f'"{kind}";r={left};t={seconds}'}


def _of_validation(error: RequestValidationError) -> JSONResponse:
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return _of_kind(Kind(400, "malformed-json", "Malformed JSON"), "The body is not valid JSON.", None)
    # `input` and `ctx` may hold what a person typed, so neither is passed on.
    problem = Problem(
        type=f"{_URN}invalid-input",
        title="Invalid input",
        status=422,
        detail="The request does not have the expected form; `errors` says where.",
        errors=[Fault(location=_location(one), message=str(one["msg"])) for one in found],
    )
    return _document(problem)


FREELY_NAMED = frozenset({"attributes"})  # fields whose values have names that the caller chose


def _location(error: Mapping[str, Any]) -> str:
    parts = [str(part) for part in error["loc"] if part not in FORMS]
    if error["type"] == "extra_forbidden":
        # The name of an unknown field is the caller's own text.
        parts[-1] = "*"
    for at, part in enumerate(parts[:-1]):
        if part in FREELY_NAMED:
            parts[at + 1] = "*"
    return ".".join(parts)


def _of_kind(kind: Kind, detail: str, retry_after: int | None) -> JSONResponse:
    headers = None if retry_after is None else {"Retry-After": str(retry_after)}
    return _document(Problem(type=_URN + kind.slug, title=kind.title, status=kind.status, detail=detail), headers)


def _document(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    content = problem.model_dump(exclude_none=True)
    return JSONResponse(content, problem.status, headers, media_type=MEDIA_TYPE)

"""Which scope opens which route, and the guard that asks for it before anything of a request is read.

The table is the one place where scopes are declared. An application with a route that is not in it does not start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, cast

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from service.access.doorkeeper import Access, Caller, Doorkeeper
from service.entrypoints.http.problems import RATE_LIMIT_HEADERS, documented, problem_from, rate_limit_headers
from service.errors import LetheError
from service.ledger import Scope

_CALLER = "lethe.caller"  # where the guard leaves the caller in the scope
_ADMITTING = 4  # requests that are looked at together: each asks the ledger
_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})

PUBLIC = Access(public=True)


def opened_by(*scopes: Scope) -> Access:
    """Any one of these scopes opens the route."""
    return Access(frozenset(scopes))


_DOCS = opened_by(Scope.OPERATE)

ROUTES: Mapping[tuple[str, str], Access] = {
    ("POST", "/recommend"): opened_by(Scope.RECOMMEND),  # and `explain` for an explanation
    ("POST", "/forget"): opened_by(Scope.FORGET),  # `rights` to be told what was held
    ("GET", "/forget/{request_id}"): opened_by(Scope.FORGET, Scope.RIGHTS),  # without `rights` one's own alone
    ("GET", "/forget/{request_id}/receipt"): opened_by(Scope.RECEIPTS),  # without `rights` of one's own alone
    ("GET", "/forget/{request_id}/receipt/attestation"): opened_by(Scope.RECEIPTS),  # as the receipt
    ("GET", "/forget/{request_id}/receipt/proof"): opened_by(Scope.RECEIPTS),  # as the receipt
    ("GET", "/receipts/log/head"): opened_by(Scope.RECEIPTS),
    ("GET", "/receipts/log/consistency"): opened_by(Scope.RECEIPTS),
    ("GET", "/forget"): opened_by(Scope.RIGHTS),
    ("POST", "/forget/preview"): opened_by(Scope.RIGHTS),
    ("POST", "/forget/batch"): opened_by(Scope.RIGHTS),  # it tells what was held of many, and no quota bounds it
    ("POST", "/forget/batch/preview"): opened_by(Scope.RIGHTS),
    ("GET", "/users/{user_id}/export"): opened_by(Scope.RIGHTS),
    # They tell of whom anything is held, and the ground of a hold.
    ("PUT", "/users/{user_id}/restriction"): opened_by(Scope.RIGHTS),
    ("GET", "/users/{user_id}/restriction"): opened_by(Scope.RIGHTS),
    ("DELETE", "/users/{user_id}/restriction"): opened_by(Scope.RIGHTS),
    ("PUT", "/users/{user_id}/hold"): opened_by(Scope.RIGHTS),
    ("GET", "/users/{user_id}/hold"): opened_by(Scope.RIGHTS),
    ("DELETE", "/users/{user_id}/hold"): opened_by(Scope.RIGHTS),
    ("POST", "/users/{user_id}/merge"): opened_by(Scope.RIGHTS),
    ("POST", "/interactions"): opened_by(Scope.INGEST),  # `rights` to take people back in who were forgotten
    ("DELETE", "/interactions"): opened_by(Scope.FORGET),
    ("PATCH", "/interactions"): opened_by(Scope.RIGHTS),  # it tells what is held
    ("POST", "/recommend/batch"): opened_by(Scope.RECOMMEND),
    ("POST", "/rerank"): opened_by(Scope.RECOMMEND),
    ("POST", "/items/{item_id}/similar"): opened_by(Scope.RECOMMEND),
    ("POST", "/items"): opened_by(Scope.ITEMS),
    ("GET", "/items"): opened_by(Scope.ITEMS, Scope.RECOMMEND),
    ("GET", "/items/{item_id}"): opened_by(Scope.ITEMS, Scope.RECOMMEND),
    ("PUT", "/items/{item_id}"): opened_by(Scope.ITEMS),
    ("PATCH", "/items/{item_id}"): opened_by(Scope.ITEMS),
    ("DELETE", "/items/{item_id}"): opened_by(Scope.ITEMS),
    ("GET", "/generation"): opened_by(Scope.OPERATE),
    ("GET", "/quality"): opened_by(Scope.OPERATE),
    ("GET", "/metrics"): opened_by(Scope.METRICS, Scope.OPERATE),
    # Probes have no keys, and learn one word.
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/openapi.json"): _DOCS,
    ("GET", "/docs"): _DOCS,
    ("GET", "/docs/oauth2-redirect"): _DOCS,
    ("GET", "/docs/static"): _DOCS,
}


class Guard:
    """Refuses who may not come in, before the body is read, and leaves the caller where routes find them."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper, routes: Mapping[tuple[str, str], Access] = ROUTES) -> None:
        self._app = app
        self._doorkeeper = doorkeeper
        self._admitting = anyio.CapacityLimiter(_ADMITTING)
        self._routes = [(method, path, _pattern(path), access) for (method, path), access in routes.items()]

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        found = self._declared(scope) if scope["type"] == "http" else None
        if found is None:
            # Of what no route declares there is nothing: the router says so.
            await self._app(scope, receive, _with_methods(send, self._methods_of(scope)))
            return
        path, access = found
        try:
            caller = await self._admitted(scope, access, f"{scope['method']} {path}")
        except LetheError as error:
            scope["route"] = _Named(path)  # for the log and the metrics
            await _refused(error, scope, receive, send)
            return
        scope[_CALLER] = caller
        await self._app(scope, receive, _with_allowance(send, caller))

    async def _admitted(self, scope: AsgiScope, access: Access, action: str) -> Caller:
        client = scope.get("client")
        return await anyio.to_thread.run_sync(
            self._doorkeeper.admit,
            _token(Headers(scope=scope)),
            client[0] if client else None,
            access,
            action,
            limiter=self._admitting,
        )

    def _declared(self, scope: AsgiScope) -> tuple[str, Access] | None:
        path = _path_of(scope)
        for method, template, pattern, access in self._routes:
            if method == scope["method"] and pattern.match(path):
                return template, access
        return None

    def _methods_of(self, scope: AsgiScope) -> list[str]:
        """What may be asked of the path. Where several templates are it, of the plainest: that is the documented one."""
        path = _path_of(scope) if scope["type"] == "http" else ""
        templates = {template for _, template, pattern, _ in self._routes if pattern.match(path)}
        plainest = min(templates, key=lambda template: template.count("{"), default=None)
        return sorted(method for method, template, _, _ in self._routes if template == plainest)


class _Named:
    def __init__(self, path: str) -> None:
        self.path = path


def _path_of(scope: AsgiScope) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _pattern(path: str) -> re.Pattern[str]:
    return compile_path(f"{path}/{{rest:path}}" if path == "/docs/static" else path)[0]


def _token(headers: Headers) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    return headers.get("x-api-key")


async def _refused(error: LetheError, scope: AsgiScope, receive: Receive, send: Send) -> None:
    document = problem_from(error)
    if scope["method"] in _METHODS_WITH_BODY:
        document.headers["Connection"] = "close"  # or the body, which nobody wants, would be read and thrown away
    await document(scope, receive, send)


def _with_methods(send: Send, methods: list[str]) -> Send:
    """`Allow` of a 405 names all methods of the path; the router knows one route's alone."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 405 and methods:
            MutableHeaders(scope=message)["allow"] = ", ".join(methods)
        await send(message)

    return answer


def _with_allowance(send: Send, caller: Caller) -> Send:
    async def answer(message: Message) -> None:
        allowance = caller.allowance
        if message["type"] == "http.response.start" and allowance is not None:
            told = rate_limit_headers(allowance.kind, allowance.limit, allowance.left, allowance.seconds)
            headers = MutableHeaders(scope=message)
            for name, value in told.items():
                headers.setdefault(name, value)  # a refusal tells of the quota that was used up
        await send(message)

    return answer


async def caller_of(request: Request) -> Caller:
    """Whoever the guard has let in."""
    return cast(Caller, request.scope[_CALLER])


Known = Annotated[Caller, Depends(caller_of)]


def routes_of(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """(method, path) of every route of an application, those of included routers too."""
    for route in routes:
        if hasattr(route, "effective_candidates"):  # a router that FastAPI keeps whole
            yield from routes_of(route.effective_candidates())
            continue
        plain = getattr(route, "starlette_route", None) or route
        for method in sorted(set(getattr(plain, "methods", None) or {"GET"}) - {"HEAD"}):
            yield method, plain.path


def require_declared(app: FastAPI) -> None:
    """Raises LookupError if a route declares no scope: nobody could say who may use it."""
    undeclared = sorted(set(routes_of(app.routes)) - ROUTES.keys())
    if undeclared:
        raise LookupError(f"these routes declare no scope in {__name__}.ROUTES: {undeclared}")


def with_access(document_of: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """A maker of the OpenAPI document -> one whose document says which scopes open what, and how keys are sent."""

    def completed() -> dict[str, Any]:
        document = document_of()
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "An API key (`lethe keys create`)"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        # An installation on loopback without keys wants none.
        document["security"] = [{}, {"bearer": []}, {"key": []}]
        for (method, path), access in ROUTES.items():
            operation = document["paths"].get(path, {}).get(method.lower())
            if operation is not None:
                _declare(operation, access)
        return document

    return completed


def _declare(operation: dict[str, Any], access: Access) -> None:
    # Of every request: its URL or head may be too large, its host none of ours.
    statuses = (414, 421, 431) if access.public else (401, 403, 414, 421, 429, 431)
    answers = {str(status): answer for status, answer in documented(*statuses).items()}
    responses = {**operation["responses"], **answers}
    operation["responses"] = responses if access.public else {s: _with_limits(a) for s, a in responses.items()}
    operation["x-lethe-scopes"] = sorted(access.scopes)


def _with_limits(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "headers": {**RATE_LIMIT_HEADERS, **answer.get("headers", {})}}

"""The names under which the service may be called."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.entrypoints.http.problems import problem_from

ANY = "*"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PROBES = ("/healthz", "/readyz")  # these are asked for by address


class KnownHosts:
    """Refuses a `Host` that is none of ours (421): a page elsewhere whose name was made to point here, for one."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        """`allowed`: names without ports; `*` is any, and `*.example.org` any below it."""
        self._app = app
        self._allowed = tuple(name.lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_known(scope):
            detail = "This service does not answer under this name. Its operator can add it to LETHE_ALLOWED_HOSTS."
            await problem_from(HTTPException(421, detail, {"Connection": "close"}))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        if ANY in self._allowed or scope["path"].endswith(PROBES):
            return True
        return any(_matches(_host(scope), name) for name in self._allowed)


def _host(scope: Scope) -> str:
    host = Headers(scope=scope).get("host", "").strip().lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _matches(host: str, name: str) -> bool:
    return host.endswith(name[1:]) if name.startswith("*.") else host == name

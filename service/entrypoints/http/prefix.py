"""The prefix of the URL under which a proxy publishes the API."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class BehindPrefix:
    """Lets routes and links know the prefix, whether or not the proxy takes it off the path.

    A server's own `--root-path` adds it to every path, so it serves only proxies that take it off.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._prefix:
            path = scope["path"]
            whole = path == self._prefix or path.startswith(f"{self._prefix}/")
            # In the form that ASGI states: the path begins with the root path.
            scope = {**scope, "root_path": self._prefix, "path": path if whole else self._prefix + path}
        await self._app(scope, receive, send)

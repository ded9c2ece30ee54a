"""HEAD wherever GET is, for probes and caches that ask for the headers alone."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadLikeGet:
    """Answers HEAD as GET, without the body. FastAPI's routes, unlike Starlette's, know the methods alone that they name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                _allow_head(MutableHeaders(scope=message))
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        if is_head:
            # The router's findings (route, parameters) are written into the scope, where the log looks for them.
            scope["method"] = "GET"
        try:
            await self._app(scope, receive, answer)
        finally:
            if is_head:
                scope["method"] = "HEAD"


def _allow_head(headers: MutableHeaders) -> None:
    allowed = [method.strip() for method in headers.get("allow", "").split(",")]
    if "GET" in allowed and "HEAD" not in allowed:
        headers["allow"] = ", ".join([*allowed, "HEAD"])

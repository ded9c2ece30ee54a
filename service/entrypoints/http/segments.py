"""An id is one segment of a path, whatever it holds: a slash that was encoded separates nothing.

Servers decode a whole path before routes see it, and `a%2Fb` becomes two segments. So what would be mistaken stays encoded
until a path has been divided, and `whole_segment` decodes it afterwards.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

# A percent sign that begins an encoded slash or percent sign, or encodes nothing and stands for itself.
_MISTAKEN = re.compile("%(?=2[Ff]|25)|(%)(?![0-9A-Fa-f]{2})")


class WholeSegments:
    """Gives routes a path in which encoded slashes and percent signs are still encoded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw and b"%" in raw:
            scope = {**scope, "path": _divisible(raw.partition(b"?")[0].decode("latin-1"))}
        await self._app(scope, receive, send)


def whole_segment(text: str) -> str:
    """What a segment of such a path says."""
    return unquote(text)


def _divisible(raw: str) -> str:
    return unquote(_MISTAKEN.sub(lambda found: "%2525" if found[1] else "%25", raw))

"""What ties the log lines of one request together: its trace, where it has one, and an id of its own in any case."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass

# W3C Trace Context, version 00; of later versions it states that this much stays as it is.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Correlation:
    """Ids in hexadecimal. `span_id` is that of our own span, so there is none where nothing is traced."""

    request_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None

    def fields(self) -> dict[str, str]:
        """Those that there are, as a log line names them."""
        named = {"request_id": self.request_id, "trace_id": self.trace_id, "span_id": self.span_id}
        return {name: value for name, value in named.items() if value is not None}


NONE = Correlation()
current: ContextVar[Correlation] = ContextVar("correlation", default=NONE)


def of_request(traceparent: str | None) -> Correlation:
    """A new id, and the trace that the caller's header names, if it is a well-formed one."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return Correlation(secrets.token_hex(8), found[1] if found else None)

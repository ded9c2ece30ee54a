"""What both clients tell httpx, and what a conversation is told of its failures."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from importlib.metadata import version
from inspect import Parameter, signature
from typing import Any, TypedDict, TypeVar

import httpx

from lethe_client.calls import Call
from lethe_client.conversation import Lost

F = TypeVar("F", bound=Callable[..., Any])

USER_AGENT = f"lethe-client/{version('lethe-client')}"
# After these nothing of the request can have arrived.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class Options(TypedDict):
    """What both of httpx's clients are made with."""

    base_url: str
    headers: dict[str, str]
    timeout: float


def options(url: str, api_key: str | None, timeout: float) -> Options:
    """What httpx's client is made with."""
    key = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return {"base_url": url, "headers": {"User-Agent": USER_AGENT, **key}, "timeout": timeout}


def request_of(http: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> httpx.Request:
    """The request that a call is."""
    typed = {} if call.content is None else {"Content-Type": "application/json"}
    return http.build_request(
        call.method, call.path, params=call.query or None, content=call.content, headers={**call.headers, **typed}
    )


def lost(error: httpx.RequestError) -> Lost:
    """That no answer came, as a conversation is told of it."""
    return Lost(not isinstance(error, _NEVER_SENT), error)


def as_method(method: F, make: Callable[..., object]) -> F:
    """`method`, with the name, the docstring and the parameters of what makes its call, behind `self`."""
    found = signature(make)
    update_wrapper(method, make)
    this = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    shown = found.replace(parameters=[this, *found.parameters.values()], return_annotation=found.empty)
    setattr(method, "__signature__", shown)  # noqa: B010 # `inspect` reads it, types do not know it
    return method

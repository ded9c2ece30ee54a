"""A typed client of Lethe, the recommendation service that can forget.

`Client` and `AsyncClient` have the same methods; `models` are what they take and give, `errors` what they raise.
"""

from lethe_client import errors, models
from lethe_client.async_client import AsyncClient
from lethe_client.client import Client
from lethe_client.conversation import Retries
from lethe_client.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LetheError,
    NoAnswer,
    NotFound,
    NotInTime,
    NotUnderstood,
    Refused,
    ServerFailed,
    TooMuch,
    Unauthenticated,
    Unavailable,
)

__all__ = [
    "AsyncClient",
    "Client",
    "Conflict",
    "Forbidden",
    "InvalidRequest",
    "LetheError",
    "NoAnswer",
    "NotFound",
    "NotInTime",
    "NotUnderstood",
    "Refused",
    "Retries",
    "ServerFailed",
    "TooMuch",
    "Unauthenticated",
    "Unavailable",
    "errors",
    "models",
]

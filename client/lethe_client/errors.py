"""What may go wrong in a call. No error's text repeats what was sent.

LetheError
├── Refused               the service answered with a problem (RFC 9457)
│   ├── InvalidRequest    400, 405, 413, 414, 415, 421, 422, 431: sent again, it is refused again
│   ├── Unauthenticated   401
│   ├── Forbidden         403
│   ├── NotFound          404
│   ├── Conflict          409
│   ├── TooMuch           429
│   ├── Unavailable       408, 503
│   └── ServerFailed      every other status
├── NoAnswer              no answer came
├── NotUnderstood         the answer is not what the contract says
└── NotInTime             waiting took longer than was allowed (a TimeoutError, too)
"""

from __future__ import annotations

from lethe_client.models import Problem


class LetheError(Exception):
    """Whatever a call may raise, but for `pydantic.ValidationError`, where what is to be sent has not its form."""


class Refused(LetheError):
    """The service answered with a problem. `retry_after`: seconds after which to come again, if it says so."""

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def kind(self) -> str:
        """The last part of the problem's type, like `receipt-not-ready`."""
        return self.problem.type.rpartition(":")[2]


class InvalidRequest(Refused):
    """The request has not the form that the contract asks for; `problem.errors` says where."""


class Unauthenticated(Refused):
    """No key was sent, or none that the service knows."""


class Forbidden(Refused):
    """The key lacks the scope that this call needs."""


class NotFound(Refused):
    """There is no such item, user, restraint or deletion, or the key may not know of it."""


class Conflict(Refused):
    """Not now: a receipt that is not ready, a key that was used for another request, a selection that has changed."""


class TooMuch(Refused):
    """A quota is used up, or too much is waiting."""


class Unavailable(Refused):
    """The service cannot answer now."""


class ServerFailed(Refused):
    """The service failed, or what stands before it did."""


class NoAnswer(LetheError):
    """No answer came. `sent` is False where the request cannot have arrived; otherwise it may have been carried out."""

    def __init__(self, sent: bool) -> None:
        super().__init__("no answer came" + ("" if sent else ", and the request was not sent"))
        self.sent = sent


class NotUnderstood(LetheError):
    """The answer is not what the contract says: the service is another one, or of a version that this client does not know."""


class NotInTime(LetheError, TimeoutError):
    """What was waited for did not happen in the time that was allowed."""


_BY_STATUS: dict[int, type[Refused]] = {
    **dict.fromkeys((400, 405, 413, 414, 415, 421, 422, 431), InvalidRequest),
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: TooMuch,
    **dict.fromkeys((408, 503), Unavailable),
}


def refusal(problem: Problem, retry_after: float | None) -> Refused:
    """The error that a problem is raised as."""
    return _BY_STATUS.get(problem.status, ServerFailed)(problem, retry_after)

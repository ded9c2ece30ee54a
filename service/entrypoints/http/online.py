"""What the routes of the online service reach, beside those that it was ordered with."""

from __future__ import annotations

import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, cast

from fastapi import Depends
from starlette.requests import Request

from service.access.doorkeeper import Account, Doorkeeper
from service.data.events import EventMeanings
from service.entrypoints.http.access import Known
from service.entrypoints.http.middleware import Limits
from service.entrypoints.telemetry import Telemetry
from service.errors import NotReady, Overloaded
from service.forgetting.arriving import EventIntake
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.restraining import RestraintIntake
from service.forgetting.transparency import TransparencyLog
from service.ledger import Ledger
from service.scoring.impressions import Unrecorded
from service.scoring.requests import Query, Recommendation

_WRITERS = 4  # batches that wait for the ledger at a time; further ones are refused


class Turnstile:
    """Lets few writers in at a time: writers queue before the ledger, and whoever cannot be served soon should hear it."""

    def __init__(self, places: int = _WRITERS) -> None:
        self._free = threading.BoundedSemaphore(places)

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Raises Overloaded where too many wait."""
        if not self._free.acquire(blocking=False):
            raise Overloaded("Too many batches wait to be written. Send this one again later.")
        try:
            yield
        finally:
            self._free.release()


@dataclass(frozen=True, slots=True)
class Ranking:
    """The recommender, the seconds within which it must answer, what it is charged to, and where answers are noted."""

    recommender: Recommends
    seconds: float
    account: Account
    impressions: Impressions


class Impressions(Protocol):
    """Where it is noted what people were shown. `flush`: the ledger has it when this returns."""

    def note(self, user_id: str | None, recommendation_id: str, found: Recommendation) -> None: ...

    def flush(self) -> None: ...


class Rings(Protocol):
    """The bell that wakes workers."""

    def ring(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OnlineServices:
    """The ledger's doors for events, items and people."""

    ledger: Ledger
    intake: Intake
    restraints: RestraintIntake
    events: EventIntake
    meanings: EventMeanings
    bell: Rings
    telemetry: Telemetry
    doorkeeper: Doorkeeper
    due_seconds: float  # from the acceptance of a deletion until it is due
    signer: ReceiptSigner  # of attestations
    log: TransparencyLog
    turnstile: Turnstile = field(default_factory=Turnstile)
    impressions: Impressions = field(default_factory=Unrecorded)


class Recommends(Protocol):
    """The recommender."""

    def recommend(self, query: Query, account: Account) -> Coroutine[Any, Any, Recommendation]: ...


class _Services(Protocol):
    online: OnlineServices | None
    recommender: Recommends
    limits: Limits
    doorkeeper: Doorkeeper

    @property
    def impressions(self) -> Impressions: ...


async def _online(request: Request) -> OnlineServices:
    services = cast(_Services, request.state.services)
    if services.online is None:
        raise NotReady("this process takes neither events nor items")
    return services.online


async def _ranking(request: Request, caller: Known) -> Ranking:
    services = cast(_Services, request.state.services)
    account = services.doorkeeper.account(caller)
    return Ranking(services.recommender, services.limits.request_seconds, account, services.impressions)


Ranks = Annotated[Ranking, Depends(_ranking)]
Online = Annotated[OnlineServices, Depends(_online)]

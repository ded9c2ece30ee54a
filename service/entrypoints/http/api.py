"""The HTTP door. Routes translate and delegate; rooms decide.

Routes that ask the ledger are plain functions, so that they run on a thread and never hold up the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Protocol, TypedDict, cast

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, Response
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from service.access.doorkeeper import Doorkeeper
from service.entrypoints.http import (
    events,
    forgetting,
    items,
    people,
    problems,
    quality,
    rankings,
    receipts,
    recommend_schemas,
    schemas,
)
from service.entrypoints.http.access import Guard, Known, require_declared, with_access
from service.entrypoints.http.awaited import while_awaited
from service.entrypoints.http.contract import publish_contract, reference_to
from service.entrypoints.http.heads import HeadLikeGet
from service.entrypoints.http.hosts import KnownHosts
from service.entrypoints.http.middleware import BoundedBody, Limits, Observed
from service.entrypoints.http.online import Impressions, OnlineServices, Recommends, Rings
from service.entrypoints.http.prefix import BehindPrefix
from service.entrypoints.http.segments import WholeSegments
from service.entrypoints.telemetry import CONTENT_TYPE, LedgerStats, Telemetry
from service.errors import LetheError, NotReady
from service.generation import GenerationInfo
from service.ledger import Scope
from service.records import ForgetRequest, ItemName, Requester
from service.scoring.impressions import Unrecorded
from service.version import VERSION


class Takes(Protocol):
    def forget(
        self,
        user_id: str,
        item_ids: list[ItemName] | None,
        idempotency_key: str | None,
        remember: bool,
        by: Requester,
    ) -> ForgetRequest: ...


class LedgerDoor(LedgerStats, Protocol):
    def request(self, request_id: str) -> ForgetRequest: ...


class Generations(Protocol):
    """The generation in memory. `reason` says why `ready` is false; `generation_info` raises `NotReady` meanwhile."""

    @property
    def reason(self) -> str: ...

    def ready(self) -> bool: ...

    def generation_info(self) -> GenerationInfo: ...


class Writable(Protocol):
    """Whether deletions could be taken now: `require` raises LedgerUnavailable or StoreError if not."""

    def require(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """All that the routes reach. `on_start` and `on_stop` frame the life of the application."""

    recommender: Recommends
    ledger: LedgerDoor
    intake: Takes
    generations: Generations
    bell: Rings
    telemetry: Telemetry
    limits: Limits
    writable: Writable
    doorkeeper: Doorkeeper
    on_start: Callable[[], Awaitable[None]]
    on_stop: Callable[[], Awaitable[None]]
    due_seconds: float = 30 * 86_400.0  # from the acceptance of a deletion until it is due
    online: OnlineServices | None = None  # events, items and people; None: this process takes none

    @property
    def impressions(self) -> Impressions:
        """Where it is noted what people were shown."""
        return Unrecorded() if self.online is None else self.online.impressions


class State(TypedDict):
    services: Services


async def _services(request: Request) -> Services:
    return cast(Services, request.state.services)


Wired = Annotated[Services, Depends(_services)]

router = APIRouter()
ONLINE = (
    events.router,
    items.router,
    rankings.router,
    forgetting.router,
    people.router,
    receipts.router,
    quality.router,
)


@router.post(
    "/recommend",
    response_model_exclude_unset=True,
    responses=problems.documented(400, 404, 408, 413, 415, 422, 429, 500, 503),
)
async def recommend(
    body: recommend_schemas.RecommendBody, request: Request, services: Wired, caller: Known
) -> recommend_schemas.RecommendAnswer:
    """Rank candidates for a user, or for a history."""
    if body.explain:
        caller.require(Scope.EXPLAIN)
    account = services.doorkeeper.account(caller)
    work = asyncio.create_task(services.recommender.recommend(body.query(), account))
    found = await while_awaited(work, request, services.limits.request_seconds)
    answer = body.page(found, tells_cold=caller.may(Scope.RIGHTS))
    services.impressions.note(body.user_id, answer.recommendation_id, found)
    return answer


@router.post("/forget", status_code=202, responses=problems.documented(400, 408, 409, 413, 415, 422, 500, 503))
def forget(
    body: schemas.ForgetBody,
    services: Wired,
    request: Request,
    response: Response,
    after: BackgroundTasks,
    caller: Known,
    idempotency_key: Annotated[schemas.IdempotencyKey | None, Header()] = None,
) -> schemas.ForgetAnswer | schemas.ForgetAcknowledged:
    """Forget a user, or some of their interactions. Effective at once; `held` says whether anything was found.

    A key without the scope `rights` is told one and the same of everybody: that the request was accepted.
    """
    services.doorkeeper.charge_deletion(caller)
    began = perf_counter()
    accepted = services.intake.forget(body.user_id, body.names(), idempotency_key, body.remember, caller.requester())
    services.telemetry.observe_mask(perf_counter() - began)
    # After the answer: a bell that cannot ring only delays a deletion, it must not make an accepted one look refused.
    after.add_task(services.bell.ring)
    response.headers["Location"] = f"{request.scope['root_path']}/forget/{accepted.request_id}"
    if not caller.may(Scope.RIGHTS):
        return schemas.ForgetAcknowledged.of(accepted)
    return schemas.ForgetAnswer.of(accepted)


@router.get("/forget/{request_id}", responses=problems.documented(404, 422, 500, 503))
def forget_status(
    request_id: schemas.RequestId, services: Wired, caller: Known
) -> schemas.ForgetStatus | schemas.ForgetAcknowledged:
    """Where a deletion stands. A key without the scope `rights` is told of its own ones, and that they were accepted."""
    request = receipts.visible(services.ledger.request(request_id), caller)
    if not caller.may(Scope.RIGHTS):
        return schemas.ForgetAcknowledged.of(request)
    return schemas.ForgetStatus.of(request, services.due_seconds)


@router.get(
    "/forget/{request_id}/receipt",
    response_class=Response,
    responses={
        200: {
            "description": "The signed receipt",
            "content": {"application/json": {"schema": reference_to(schemas.SignedReceipt)}},
        },
        **problems.documented(404, 409, 422, 500, 503),
    },
)
def forget_receipt(request_id: schemas.RequestId, services: Wired, caller: Known) -> Response:
    """The signed receipt of a completed deletion, byte for byte as it was signed. Without `rights`, of one's own alone."""
    request = receipts.visible(services.ledger.request(request_id), caller)
    if request.state != "completed" or request.receipt is None:
        return problems.receipt_not_ready()
    return Response(request.receipt, media_type="application/json")


@router.get("/generation", responses=problems.documented(500, 503))
def generation(services: Wired) -> schemas.GenerationAnswer:
    """The generation that this process serves."""
    return schemas.GenerationAnswer.of(services.generations.generation_info())


@router.get("/healthz", responses=problems.documented(503))
def healthz(services: Wired) -> schemas.Health:
    """Whether this process can do its duty: it really asks the ledger."""
    services.ledger.mask()
    return schemas.Health(status="ok")


@router.get("/readyz", responses=problems.documented(503))
def readyz(services: Wired) -> schemas.Health:
    """Whether a generation is loaded, and deletions can be taken: ledger and disks are really written to."""
    if not services.generations.ready():
        raise NotReady(services.generations.reason)
    services.writable.require()
    return schemas.Health(status="ready")


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
def metrics(services: Wired) -> Response:
    """Prometheus metrics."""
    return Response(services.telemetry.render(), headers={"Content-Type": CONTENT_TYPE})


class _Around:
    """Middleware that a function makes."""

    def __init__(self, app: ASGIApp, traced: Callable[[ASGIApp], ASGIApp]) -> None:
        self._app = traced(app)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


# FastAPI has spans of its own, with paths and query strings; a variable of its own would send them anywhere.
_NONE_OF_ITS_OWN = TelemetryConfig(
    tracing=False, metrics=False, logs=False, operation_spans=False, auto_configure=False
)


def create_app(
    services: Services,
    root_path: str = "",
    allowed_hosts: Sequence[str] = ("*",),
    traced: Callable[[ASGIApp], ASGIApp] | None = None,
) -> FastAPI:
    """The application over `services`. It starts and stops them with its own life.

    `root_path` is the prefix under which a proxy publishes it, whether or not the proxy takes it off the path;
    `allowed_hosts` are the names under which it may be called, and `traced` is put around what answers.
    """
    services.telemetry.watch(services.ledger, services.generations)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        await services.on_start()
        try:
            yield State(services=services)
        finally:
            await services.on_stop()

    app = FastAPIOffline(  # FastAPI whose page of documentation fetches nothing from elsewhere
        title="Lethe",
        summary="Recommendations that can forget.",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        static_url="/docs/static",
        telemetry=_NONE_OF_ITS_OWN,
        generate_unique_id_function=lambda route: route.name,  # generated clients call their functions so
        middleware=_middleware(services, root_path, allowed_hosts, traced),
        exception_handlers=dict.fromkeys((LetheError, RequestValidationError, HTTPException), problems.handle),
    )
    app.include_router(router)
    if services.online is not None:
        for online_router in ONLINE:
            app.include_router(online_router)
    publish_contract(app)
    app.openapi = with_access(app.openapi)  # type: ignore[method-assign] # as FastAPI's manual has it
    require_declared(app)
    return app


def _middleware(
    services: Services, root_path: str, allowed_hosts: Sequence[str], traced: Callable[[ASGIApp], ASGIApp] | None
) -> list[Middleware]:
    """What stands around the routes, the outermost first."""
    return [
        Middleware(WholeSegments),
        Middleware(BehindPrefix, prefix=root_path),
        *([] if traced is None else [Middleware(_Around, traced=traced)]),
        Middleware(Observed, observer=services.telemetry),
        Middleware(KnownHosts, allowed=allowed_hosts),
        Middleware(HeadLikeGet),
        Middleware(Guard, doorkeeper=services.doorkeeper),
        Middleware(BoundedBody, limits=services.limits),
    ]

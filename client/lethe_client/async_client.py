"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import httpx

from lethe_client import calls
from lethe_client.calls import Call
from lethe_client.conversation import (
    Conversation,
    Lines,
    Outcome,
    Pause,
    Retries,
    accepted,
    answered,
    read,
    receipt_awaited,
)
from lethe_client.errors import NoAnswer
from lethe_client.models import ForgetStatus, ItemAnswer
from lethe_client.transport import as_method, lost, options, request_of

P = ParamSpec("P")
T = TypeVar("T")


def _asks(make: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    """A method that makes a call; awaited, its result."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._lead(answered(make(*args, **kwargs), self._retries))

    return as_method(method, make)


def _streams(make: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    """A method that makes a call and yields what each line of its answer says, as it comes."""

    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self._lines(make(*args, **kwargs))

    return as_method(method, make)


class AsyncClient:
    """Lethe's HTTP API, a method for each operation. Use it as an asynchronous context manager, or close it.

    Every method may raise `LetheError`, and `pydantic.ValidationError` where what it is given has not the contract's form.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`timeout`: seconds that a connection, or a silence, may take. `transport`: how httpx reaches the service."""
        self._retries = Retries() if retries is None else retries
        self._http = httpx.AsyncClient(transport=transport, **options(url, api_key, timeout))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.aclose()

    recommend = _asks(calls.recommend)
    recommend_batch = _streams(calls.recommend_batch)
    similar_items = _asks(calls.similar_items)
    rerank = _asks(calls.rerank)
    take_interactions = _asks(calls.take_interactions)
    forget_interactions = _asks(calls.forget_interactions)
    rectify_interaction = _asks(calls.rectify_interaction)
    put_items = _asks(calls.put_items)
    list_items = _asks(calls.list_items)
    get_item = _asks(calls.get_item)
    put_item = _asks(calls.put_item)
    patch_item = _asks(calls.patch_item)
    delete_item = _asks(calls.delete_item)
    export_user = _asks(calls.export_user)
    export_user_csv = _asks(calls.export_user_csv)
    restrict_user = _asks(calls.restrict_user)
    read_restriction = _asks(calls.read_restriction)
    lift_restriction = _asks(calls.lift_restriction)
    hold_user = _asks(calls.hold_user)
    read_hold = _asks(calls.read_hold)
    release_hold = _asks(calls.release_hold)
    merge_user = _asks(calls.merge_user)
    forget = _asks(calls.forget)
    list_forgets = _asks(calls.list_forgets)
    forget_status = _asks(calls.forget_status)
    preview_forget = _asks(calls.preview_forget)
    forget_batch = _asks(calls.forget_batch)
    preview_batch = _asks(calls.preview_batch)
    forget_receipt = _asks(calls.forget_receipt)
    forget_attestation = _asks(calls.forget_attestation)
    forget_receipt_proof = _asks(calls.forget_receipt_proof)
    receipt_log_head = _asks(calls.receipt_log_head)
    receipt_log_consistency = _asks(calls.receipt_log_consistency)
    generation = _asks(calls.generation)
    read_quality = _asks(calls.read_quality)
    healthz = _asks(calls.healthz)
    readyz = _asks(calls.readyz)
    metrics = _asks(calls.metrics)

    async def wait_for_receipt(self, request_id: str, *, seconds: float = 600.0, every: float = 1.0) -> bytes:
        """The signed receipt of a deletion, once it is completed; asked for `every` so many seconds. Raises NotInTime."""
        return await self._lead(receipt_awaited(request_id, seconds, every, self._retries))

    async def every_item(self) -> AsyncIterator[ItemAnswer]:
        """All items of the catalog, page by page."""
        cursor: str | None = ""
        while cursor is not None:
            page = await self.list_items(cursor=cursor, limit=1_000)
            for one in page.items:
                yield one
            cursor = page.cursor

    async def every_forget(self, state: calls.DeletionState | None = None) -> AsyncIterator[ForgetStatus]:
        """All deletions (in this state), the oldest first, page by page."""
        cursor: str | None = ""
        while cursor is not None:
            page = await self.list_forgets(state=state, cursor=cursor, limit=1_000)
            for one in page.requests:
                yield one
            cursor = page.cursor

    async def _lead(self, conversation: Conversation[T], stream: bool = False) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = conversation.send(outcome)
            except StopIteration as ended:
                result: T = ended.value
                return result
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                outcome = None
            else:
                outcome = await self._send(step, stream)

    async def _send(self, call: Call[object], stream: bool) -> Outcome:
        try:
            response = await self._http.send(request_of(self._http, call), stream=True)
            if not (stream and response.is_success):
                await response.aread()
        except httpx.RequestError as error:
            return lost(error)
        return response

    async def _lines(self, call: Call[T]) -> AsyncIterator[T]:
        response, lines = await self._lead(accepted(call, self._retries), stream=True), Lines()
        try:
            async for piece in response.aiter_bytes():
                for line in lines.of(piece):
                    yield read(call, line)
        except httpx.RequestError as error:
            raise NoAnswer(sent=True) from error
        finally:
            await response.aclose()

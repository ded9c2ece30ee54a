"""Work that ends with the wish for it: when the client has left, or its time is over."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from service.errors import TimedOut
from service.scoring.requests import Recommendation


async def while_awaited(work: asyncio.Task[Recommendation], request: Request, seconds: float) -> Recommendation:
    """What is recommended, if it comes within this time and while the client is there. Raises TimedOut."""
    # Whoever gave up often asks again: under load, scoring for those who left would starve those who stayed.
    gone = asyncio.create_task(_disconnection(request))
    try:
        await asyncio.wait((work, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise TimedOut(f"No answer within {seconds:g} seconds, or nobody waits for it any more. Try again later.")
    finally:
        work.cancel()
        gone.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

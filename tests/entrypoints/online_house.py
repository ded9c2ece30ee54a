"""The HTTP door over a real ledger in this process, without a model: what events, items and people are asked of.

With `impressions` answers are noted; nothing writes them but `flush`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.types import ASGIApp

from service.access.doorkeeper import Account
from service.data.events import EventMeanings
from service.entrypoints.http.api import Services, create_app
from service.entrypoints.http.middleware import Limits
from service.entrypoints.http.online import OnlineServices, Turnstile
from service.entrypoints.telemetry import Telemetry
from service.errors import NotReady
from service.forgetting.arriving import EventIntake
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.restraining import RestraintIntake
from service.forgetting.tombstones import TombstoneFile
from service.forgetting.transparency import TransparencyLog
from service.generation import GenerationInfo
from service.ledger import KeyedHashes, Ledger
from service.records import Item
from service.scoring.impressions import ImpressionRecorder, Unrecorded
from service.scoring.requests import Query, RankBy, Ranked, Recommendation
from tests.entrypoints.test_api import open_doorkeeper

SECRET = b"a secret of the tests"
SIGNER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
MEANINGS = EventMeanings.of(3.0, ["play"], ["skip"], ["view"])
ITEMS = [Item(f"i{n}", f"Title {n} (1999)", 1999, ("Drama", "War")) for n in range(6)]


class Echo:
    """Answers with the catalog in order of the ids, but for what a query excludes; it notes each query."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.queries: list[Query] = []

    async def recommend(self, query: Query, account: Account) -> Recommendation:
        self.queries.append(query)
        out = {getattr(name, "item_id", name) for name in query.exclude}
        items = [item for item in self._ledger.items() if item.item_id not in out][: query.top_k]
        ranked = tuple(Ranked(item.item_id, item.title, 1 / (n + 1), n) for n, item in enumerate(items, 1))
        if query.candidates is not None:
            # The last is the best, and what begins with "hidden" may not be shown.
            told = [name for name in reversed(query.candidates) if not str(name).startswith("hidden")]
            ranked = tuple(
                Ranked(None, f"title of {name}", 1 / (n + 1), n, names=(name,)) for n, name in enumerate(told, 1)
            )
        cold = query.user_id is not None and not self._ledger.seen(query.user_id)
        return Recommendation("g", 0, False, ranked, {}, (), RankBy.MODEL, cold=cold)


class Asleep:
    """A generation that is not there, and a bell that counts."""

    reason = "nothing is built here"
    rung = 0

    def ready(self) -> bool:
        return False

    def generation_info(self) -> GenerationInfo:
        raise NotReady(self.reason)

    def ring(self) -> None:
        self.rung += 1

    def require(self) -> None:
        return None


class OnlineHouse:
    """A ledger that holds a catalog, and its door."""

    def __init__(
        self,
        folder: Path,
        url: str,
        turnstile: Turnstile | None = None,
        traced: Callable[[ASGIApp], ASGIApp] | None = None,
        impressions: bool = False,
    ) -> None:
        self.ledger = Ledger(url, SECRET)
        self.ledger.import_data(ITEMS, [], "movie")
        self.ledger.advance_horizon()
        self.recommender, self.asleep = Echo(self.ledger), Asleep()
        tombstones = TombstoneFile(folder / "tombstones.jsonl", KeyedHashes(SECRET))
        intake = Intake(self.ledger, SIGNER, tombstones)
        telemetry, doorkeeper = Telemetry(forget_deadline=86_400.0), open_doorkeeper()
        recorder = ImpressionRecorder(self.ledger.impressions, self.ledger.now, telemetry.observe_impressions)
        self.impressions = recorder if impressions else Unrecorded()
        self.app = create_app(
            Services(
                recommender=self.recommender,
                ledger=self.ledger,
                intake=intake,
                generations=self.asleep,
                bell=self.asleep,
                telemetry=telemetry,
                limits=Limits(),
                writable=self.asleep,
                doorkeeper=doorkeeper,
                on_start=_nothing,
                on_stop=_nothing,
                online=OnlineServices(
                    self.ledger,
                    intake,
                    RestraintIntake(self.ledger.restraints, tombstones),
                    EventIntake(self.ledger, tombstones),
                    MEANINGS,
                    self.asleep,
                    telemetry,
                    doorkeeper,
                    30 * 86_400.0,
                    SIGNER,
                    TransparencyLog(self.ledger.receipt_log, SIGNER, self.ledger.now),
                    turnstile or Turnstile(),
                    self.impressions,
                ),
            ),
            traced=traced,
        )

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, through the whole application."""
        return asyncio.run(self._ask(method, path, **options))

    def post(self, path: str, body: object) -> httpx.Response:
        return self.ask("POST", path, json=body)

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with self.app.router.lifespan_context(self.app) as state:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await self.app(scope | {"state": dict(state or {})}, receive, send)

            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://house") as client:
                return await client.request(method, path, **options)


async def _nothing() -> None:
    return None

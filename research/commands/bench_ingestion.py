"""`lethe bench ingestion`: events into a ledger of made-up people, by each way there is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from research.benchmarks.ingestion import IngestionBench, Stream, open_ledger
from research.commands.bench import OutOption, RoundsOption, tell
from service.access.doorkeeper import Account, Doorkeeper
from service.access.quotas import LocalBuckets
from service.data.events import EventMeanings
from service.entrypoints.commands.console import progress_for_stderr
from service.entrypoints.commands.options import JsonOption
from service.entrypoints.http.api import Services, create_app
from service.entrypoints.http.middleware import Limits
from service.entrypoints.http.online import OnlineServices
from service.entrypoints.telemetry import Telemetry
from service.errors import InvalidSetting, NotReady
from service.forgetting.arriving import EventIntake
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.restraining import RestraintIntake
from service.forgetting.tombstones import TombstoneFile
from service.forgetting.transparency import TransparencyLog
from service.generation import GenerationInfo
from service.ledger import KeyedHashes, Ledger, Quota, ledger_exists
from service.scoring.requests import Query, Recommendation

_DEADLINE = 86_400.0


def bench_ingestion(
    people: Annotated[int, typer.Option(min=10, help="Made-up people")] = 10_000,
    items: Annotated[int, typer.Option(min=10, help="Of the catalog")] = 20_000,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of one request")] = 1_000,
    rounds: RoundsOption = 10,
    database_url: Annotated[
        str | None,
        typer.Option(help="Empty PostgreSQL database for the ledger, left full; default: SQLite in a scratch folder"),
    ] = None,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """Events into the ledger, over HTTP and beneath it, beside what the database takes at best."""
    if database_url is not None and ledger_exists(database_url):
        raise InvalidSetting("the database of --database-url holds a ledger; give an empty one")
    with tempfile.TemporaryDirectory() as scratch, progress_for_stderr() as progress:
        folder = Path(scratch)
        with open_ledger(database_url or f"sqlite:///{folder / 'ledger.sqlite'}") as ledger:
            bench = IngestionBench(
                ledger, lambda own: _app(own, folder), database_url or folder, Stream(people, items, batch), progress
            )
            sections = bench.run(rounds)
    asked = {"people": people, "items": items, "batch": batch, "rounds": rounds}
    tell("ingestion", asked | {"database": "PostgreSQL" if database_url else "SQLite"}, sections, out, json_)


class _Nothing:
    """Stands where a model and a bell would: this server takes events alone."""

    reason = "nothing is built here"

    async def recommend(self, query: Query, account: Account) -> Recommendation:
        raise NotReady(self.reason)

    def ready(self) -> bool:
        return False

    def generation_info(self) -> GenerationInfo:
        raise NotReady(self.reason)

    def ring(self) -> None:
        return None

    def require(self) -> None:
        return None


async def _at_ease() -> None:
    return None


def _app(ledger: Ledger, folder: Path) -> Any:
    nothing, telemetry = _Nothing(), Telemetry(_DEADLINE)
    tombstones = TombstoneFile(folder / "tombstones.jsonl", KeyedHashes(b"a secret of the benchmark"))
    signer = ReceiptSigner(Ed25519PrivateKey.generate())
    intake = Intake(ledger, signer, tombstones)
    unbounded = Quota(10**9, 10**12, 10**9)
    doorkeeper = Doorkeeper(ledger.keys, ledger.trail, LocalBuckets(), unbounded, lambda address: address, True)
    meanings = EventMeanings.of(3.0, ["play"], ["skip"], ["view"])
    online = OnlineServices(
        ledger,
        intake,
        RestraintIntake(ledger.restraints, tombstones),
        EventIntake(ledger, tombstones),
        meanings,
        nothing,
        telemetry,
        doorkeeper,
        due_seconds=_DEADLINE,
        signer=signer,
        log=TransparencyLog(ledger.receipt_log, signer, ledger.now),
    )
    return create_app(
        Services(
            recommender=nothing,
            ledger=ledger,
            intake=intake,
            generations=nothing,
            bell=nothing,
            telemetry=telemetry,
            limits=Limits(),
            writable=nothing,
            doorkeeper=doorkeeper,
            on_start=_at_ease,
            on_stop=_at_ease,
            online=online,
        )
    )

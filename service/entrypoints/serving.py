"""Wires an API replica: it names concrete classes and hands them over by constructor. Nothing here builds or trains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fastapi import FastAPI

from service.entrypoints.bootstrap import Home
from service.entrypoints.exposure import allowed_hosts, open_doorkeeper
from service.entrypoints.http.api import Services, create_app
from service.entrypoints.http.middleware import Limits
from service.entrypoints.http.readiness import Writability
from service.entrypoints.telemetry import Telemetry
from service.llm.frozen import FrozenModel
from service.scoring.batcher import Batcher
from service.scoring.prefix_cache import PrefixCache
from service.scoring.recommender import Recommender
from service.scoring.refresher import Refresher
from service.scoring.scorer import Scorer
from service.scoring.snapshot import Snapshots


def serving_app(
    home: Home, on_start: Callable[[], None], on_stop: Callable[[], None], telemetry: Telemetry | None = None
) -> FastAPI:
    """The application of one API replica: one frozen model, one scoring thread, one refresher.

    `telemetry` is given by whoever counts in it, too.
    """
    settings = home.settings
    telemetry = telemetry or Telemetry(settings.forget_deadline)
    torch.set_num_threads(settings.scoring_threads())
    doorkeeper, bell, frozen = open_doorkeeper(home), home.bell(), FrozenModel.load(home.model())
    snapshots = Snapshots(home.store, frozen)
    contexts = PrefixCache(settings.context_cache_bytes)
    telemetry.watch_store(home.incidents.counts)
    refresher = Refresher(home.ledger, snapshots, contexts, bell.wait, home.incidents.note)
    scorer = Scorer(home.ledger, snapshots, frozen, telemetry, contexts, settings.max_batch_tokens)
    batcher = Batcher(scorer, telemetry, settings.max_batch_tokens, settings.max_queued_tokens)

    async def start() -> None:
        await batcher.start()
        refresher.start()
        on_start()

    async def stop() -> None:
        refresher.stop()
        await batcher.stop()
        on_stop()
        doorkeeper.close()
        bell.close()
        home.ledger.close()

    return create_app(
        Services(
            recommender=Recommender(
                home.ledger, snapshots, frozen, batcher, settings.request_timeout, settings.max_request_tokens
            ),
            ledger=home.ledger,
            intake=home.intake(),
            generations=refresher,
            bell=bell,
            telemetry=telemetry,
            limits=Limits(settings.max_body_bytes, settings.request_timeout),
            writable=_writability(home),
            doorkeeper=doorkeeper,
            on_start=start,
            on_stop=stop,
        ),
        settings.root_path,
        allowed_hosts(home),
    )


def _writability(home: Home) -> Writability:
    folder = home.settings.home
    return Writability(home.ledger, {"the home folder": folder, "the store's folder": folder / "store"})

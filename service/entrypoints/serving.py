"""Wires an API replica: it names concrete classes and hands them over by constructor. Nothing here builds or trains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from fastapi import FastAPI

from service.access.doorkeeper import Doorkeeper
from service.config import Settings
from service.data.events import EventMeanings
from service.entrypoints.bootstrap import Home
from service.entrypoints.devices import computing_of, served_model
from service.entrypoints.exposure import allowed_hosts, open_doorkeeper
from service.entrypoints.generations import snapshots_of
from service.entrypoints.http.api import Services, create_app
from service.entrypoints.http.middleware import Limits
from service.entrypoints.http.online import Impressions, OnlineServices
from service.entrypoints.http.readiness import Writability
from service.entrypoints.observing import Traces, Untraced
from service.entrypoints.telemetry import Telemetry
from service.forgetting.arriving import EventIntake
from service.forgetting.bell import Bell
from service.llm.frozen import FrozenModel
from service.scoring.batcher import Batcher
from service.scoring.impressions import ImpressionRecorder, Unrecorded
from service.scoring.prefix_cache import PrefixCache
from service.scoring.recommender import Queue, Recommender
from service.scoring.refresher import Refresher
from service.scoring.scorer import Scorer
from service.scoring.shelf import Shelves
from service.scoring.snapshot import Snapshots

log = logging.getLogger(__name__)


def serving_app(
    home: Home,
    on_start: Callable[[], None],
    on_stop: Callable[[], None],
    on_ready: Callable[[], None] = lambda: None,
    telemetry: Telemetry | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """One API replica's application: one frozen model, one scoring thread, one refresher.

    `on_ready` is called once, when a generation can be scored with. Whoever counts or traces, too, gives the other two.
    """
    settings, telemetry = home.settings, _watching(home, telemetry)
    traces = traces or Untraced()
    torch.set_num_threads(settings.scoring_threads())
    doorkeeper, bell, frozen = open_doorkeeper(home), home.bell(), FrozenModel.load(served_model(home))
    snapshots, computing = _placed(home, frozen)
    prefix_cache, shelves = PrefixCache(settings.context_cache_bytes), Shelves(home.ledger)
    refresher = Refresher(
        home.ledger, snapshots, prefix_cache, bell.wait, home.incidents.note, on_ready, shelves, computing
    )
    batcher = _batcher(home, snapshots, frozen, prefix_cache, telemetry, traces)
    impressions = _impressions(home, telemetry)

    async def start() -> None:
        await _begun(batcher, refresher, impressions, on_start)

    async def stop() -> None:
        await _ended(batcher, refresher, impressions, on_stop, (doorkeeper, bell, home.ledger))

    return create_app(
        Services(
            recommender=_recommender(home, snapshots, frozen, traces.queue(batcher), shelves),
            ledger=home.ledger,
            intake=home.intake(),
            generations=refresher,
            bell=bell,
            telemetry=telemetry,
            limits=_limits(settings),
            writable=_writability(home),
            doorkeeper=doorkeeper,
            on_start=start,
            on_stop=stop,
            due_seconds=settings.due_seconds(),
            online=_online(home, bell, telemetry, doorkeeper, impressions),
        ),
        *(settings.root_path, allowed_hosts(home)),
        traced=None if isinstance(traces, Untraced) else traces.middleware,
    )


def _watching(home: Home, given: Telemetry | None) -> Telemetry:
    telemetry = given or Telemetry(home.settings.forget_deadline)
    telemetry.watch_store(home.incidents.counts)
    telemetry.watch_outbox(home.ledger.outbox.counts)
    return telemetry


class _Opened(Protocol):
    def close(self) -> None: ...


async def _begun(
    batcher: Batcher, refresher: Refresher, impressions: ImpressionRecorder | Unrecorded, on_start: Callable[[], None]
) -> None:
    await batcher.start()
    refresher.start()
    impressions.start()
    on_start()


async def _ended(
    batcher: Batcher,
    refresher: Refresher,
    impressions: ImpressionRecorder | Unrecorded,
    on_stop: Callable[[], None],
    all_opened: Sequence[_Opened],
) -> None:
    refresher.stop()
    await batcher.stop()
    impressions.stop()
    on_stop()
    for opened in all_opened:
        opened.close()


def _batcher(
    home: Home,
    snapshots: Snapshots,
    frozen: FrozenModel,
    prefix_cache: PrefixCache,
    telemetry: Telemetry,
    traces: Traces,
) -> Batcher:
    most, watch = home.settings.max_batch_tokens, traces.stopwatch(telemetry)
    scorer = Scorer(home.ledger, snapshots, frozen, watch, prefix_cache, most)
    return Batcher(scorer, telemetry, most, home.settings.max_queued_tokens)


def _placed(home: Home, frozen: FrozenModel) -> tuple[Snapshots, dict[str, str]]:
    """The generations where they are computed with, and what is told of that."""
    chosen, snapshots = computing_of(home.settings), snapshots_of(home, frozen)
    computing = {"device": chosen.device, "dtype": chosen.dtype, "why": chosen.why, "attention": frozen.attention}
    log.info("computing_on", extra={**computing, "neighbors": snapshots.place.where})
    return snapshots, computing


def _recommender(home: Home, snapshots: Snapshots, frozen: FrozenModel, queue: Queue, shelves: Shelves) -> Recommender:
    settings = home.settings
    bounds = (settings.request_timeout, shelves, settings.max_request_tokens)
    return Recommender(home.ledger, snapshots, frozen, queue, *bounds)


def _limits(settings: Settings) -> Limits:
    return Limits(settings.max_body_bytes, settings.request_timeout, settings.max_batch_bytes)


def _impressions(home: Home, telemetry: Telemetry) -> ImpressionRecorder | Unrecorded:
    if not home.settings.impressions_days:
        return Unrecorded()
    return ImpressionRecorder(home.ledger.impressions, home.ledger.now, telemetry.observe_impressions)


def _online(
    home: Home, bell: Bell, telemetry: Telemetry, doorkeeper: Doorkeeper, impressions: Impressions
) -> OnlineServices:
    settings = home.settings
    kinds = (settings.liked_events, settings.disliked_events, settings.ignored_events)
    return OnlineServices(
        ledger=home.ledger,
        intake=home.intake(),
        restraints=home.restraint_intake(),
        events=EventIntake(home.ledger, home.tombstones),
        meanings=EventMeanings.of(settings.liked_above, *kinds),
        bell=bell,
        telemetry=telemetry,
        doorkeeper=doorkeeper,
        due_seconds=settings.due_seconds(),
        signer=home.signer,
        log=home.log(),
        impressions=impressions,
    )


def _writability(home: Home) -> Writability:
    # A bucket is not asked: a deletion is taken without it, and an outage there must not stop answers here.
    store = home.store.backend.folder
    folders = {"the home folder": home.settings.home} | ({} if store is None else {"the store's folder": store})
    return Writability(home.ledger, folders)

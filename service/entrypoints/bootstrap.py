"""The one place that wires: it names concrete classes and hands them over by constructor."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from fastapi import FastAPI

from adapters_store import Store
from service.build.build import Builder
from service.build.environment import environment_of
from service.build.known import ignore_damage
from service.build.progress import Progress, Silent
from service.build.readings import Readings
from service.build.rehearsal import RehearsalLedger
from service.build.workforce import Workforce
from service.config import Settings, kernel_variables
from service.data.ledger import Ledger, ledger_exists
from service.entrypoints.api import Services, create_app
from service.entrypoints.limits import Limits
from service.entrypoints.readiness import Writability
from service.entrypoints.telemetry import Telemetry
from service.errors import InvalidSetting
from service.forgetting.bell import Bell, open_bell
from service.forgetting.incidents import Incidents
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.reconcile import INCIDENTS, Reconciler
from service.forgetting.restore import Restored, restore_check
from service.forgetting.secret import SecretFiles, Secrets
from service.forgetting.tombstones import TombstoneFile
from service.llm.encoder import ModelSpec
from service.llm.frozen import FrozenModel
from service.scoring.batcher import Batcher
from service.scoring.contexts import ContextCache
from service.scoring.recommender import Recommender
from service.scoring.refresher import Refresher
from service.scoring.scorer import Scorer
from service.scoring.snapshot import Snapshots

# What a child would otherwise import (every one of them runs the main module again) or load anew.
_PRELOAD = ("service.entrypoints.cli", "service.entrypoints.preloaded")
_SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Home:
    """What every process of one installation shares."""

    settings: Settings
    secret: bytes
    ledger: Ledger
    store: Store
    signer: ReceiptSigner
    tombstones: TombstoneFile
    incidents: Incidents

    @classmethod
    def open(cls, settings: Settings) -> Home:
        """Make the home folder if it is not there, and open what is in it. Whatever this process makes is its user's alone.

        Raises:
            InvalidSetting: the folder cannot be used, or was written under another secret than the one given.
            LedgerUnavailable: the database cannot be reached.
        """
        os.umask(0o077)
        known = _open_secrets(settings)
        tombstones = TombstoneFile(tombstone_path(settings), known.hashes())
        tombstones.check()  # first: a new ledger would take any secret for its own
        return cls(
            settings=settings,
            secret=known.present,
            ledger=Ledger(
                settings.ledger_at(),
                known.present,
                remember_seconds=settings.remember_days * _SECONDS_A_DAY,
                retired=known.retired,
            ),
            store=Store(settings.home / "store"),
            signer=ReceiptSigner.open(receipt_key_path(settings)),
            tombstones=tombstones,
            incidents=Incidents(settings.home / INCIDENTS),
        )

    def intake(self) -> Intake:
        return Intake(self.ledger, self.signer, self.tombstones)

    def restore_check(self) -> Restored:
        """To be called before anything is answered or built: the ledger may be an old one that was restored."""
        return restore_check(self.ledger, self.tombstones, self.intake())

    def bell(self) -> Bell:
        return open_bell(self.settings.redis_url, self.settings.home / "worker.lock")

    def model(self) -> ModelSpec:
        settings = self.settings
        return ModelSpec(settings.model, settings.model_revision, settings.dtype, settings.device)

    def builder(self, progress: Progress | None = None) -> Builder:
        return self._builder(self.ledger, self.store, progress)

    def rehearsal(self, store: Store, progress: Progress | None = None) -> Builder:
        """A builder into another store, of which the ledger notes nothing."""
        return self._builder(RehearsalLedger(self.settings.ledger_at(), self.secret), store, progress)

    def _builder(
        self, ledger: Ledger, store: Store, progress: Progress | None, readings: Readings | None = None
    ) -> Builder:
        workforce, progress = self.workforce(), progress or Silent()
        # A rehearsal builds into an empty store, where nothing can be damaged.
        note = self.incidents.note if store is self.store else ignore_damage
        return Builder(
            ledger, store, self.model(), workforce, self.secret, self.environment(), progress, readings, note
        )

    def environment(self) -> dict[str, str]:
        """What the bits of all that is computed here depend on, beside their inputs."""
        return environment_of(self.settings.device, kernel_variables())

    def workforce(self) -> Workforce:
        settings = self.settings
        return Workforce(
            settings.build_processes or (1 if settings.device.startswith("cuda") else settings.cores()), _PRELOAD
        )

    def reconciler(self, bell: Bell, progress: Progress | None = None) -> Reconciler:
        builder = self._builder(self.ledger, self.store, progress, Readings(self.settings.readings_bytes))
        config = self.settings.build_config()
        return Reconciler(self.ledger, self.store, builder, bell, self.signer, config, self.incidents)


def serving_app(home: Home, on_start: Callable[[], None], on_stop: Callable[[], None]) -> FastAPI:
    """The application of one API replica: one frozen model, one scoring thread, one refresher."""
    settings = home.settings
    torch.set_num_threads(settings.scoring_threads())
    telemetry, bell, frozen = Telemetry(settings.forget_deadline), home.bell(), FrozenModel.load(home.model())
    snapshots = Snapshots(home.store, frozen)
    contexts = ContextCache(settings.context_cache_bytes)
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
        bell.close()
        home.ledger.close()

    return create_app(
        Services(
            recommender=Recommender(home.ledger, snapshots, frozen, batcher, settings.request_timeout),
            ledger=home.ledger,
            intake=home.intake(),
            generations=refresher,
            bell=bell,
            telemetry=telemetry,
            limits=Limits(settings.max_body_bytes, settings.request_timeout),
            writable=Writability(
                home.ledger, {"the home folder": settings.home, "the store's folder": settings.home / "store"}
            ),
            on_start=start,
            on_stop=stop,
        ),
        settings.root_path,
    )


def secret_files(settings: Settings) -> SecretFiles:
    """Where the installation's secret is."""
    return SecretFiles(settings.home, settings.secret, settings.retired_secrets)


def receipt_key_path(settings: Settings) -> Path:
    return settings.home / "receipts.pem"


def tombstone_path(settings: Settings) -> Path:
    return settings.home / "tombstones.jsonl"


def _open_secrets(settings: Settings) -> Secrets:
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return secret_files(settings).open(lambda: _written_under_a_secret(settings))
    except OSError as error:
        raise InvalidSetting(
            f"LETHE_HOME cannot be used ({error.strerror}); give a folder that this user may write"
        ) from error


def _written_under_a_secret(settings: Settings) -> str | None:
    if tombstone_path(settings).exists():
        return "a tombstone file"
    return "a ledger" if ledger_exists(settings.ledger_at()) else None

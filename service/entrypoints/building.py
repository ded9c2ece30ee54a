"""Wires what builds and reconciles, for workers and for commands that do their work."""

from __future__ import annotations

from adapters_store import Store
from service.building.builder import Builder
from service.building.dry_run import DryRunLedger
from service.building.environment import environment_of
from service.building.known import ignore_damage
from service.building.progress import Progress, Silent
from service.building.workers.prefill_cache import PrefillCache
from service.building.workers.process_pool import GpuShare, ProcessPool
from service.config import kernel_variables, withhold_store_key
from service.entrypoints.bootstrap import Home
from service.entrypoints.devices import computing_of, trained_model
from service.forgetting.bell import Bell
from service.forgetting.reconcile import Reconciler
from service.forgetting.schedule import BuildSchedule
from service.ledger import Ledger

# What a child would otherwise import (every one of them runs the main module again) or load anew.
_PRELOAD = ("service.entrypoints.commands.main", "service.entrypoints.preloaded")


def builder(home: Home, progress: Progress | None = None) -> Builder:
    """A builder of the installation's own generations."""
    return _builder(home, home.ledger, home.store, progress)


def dry_run_builder(home: Home, store: Store, progress: Progress | None = None) -> Builder:
    """A builder into another store, of which the ledger notes nothing."""
    return _builder(home, DryRunLedger(home.settings.ledger_at(), home.secret), store, progress)


def reconciler(home: Home, bell: Bell, progress: Progress | None = None) -> Reconciler:
    """What brings the published generation to what the ledger says, and completes deletions."""
    made = _builder(home, home.ledger, home.store, progress, PrefillCache(home.settings.prefill_cache_bytes))
    settings = home.settings
    schedule = BuildSchedule(settings.build_every, settings.build_after_interactions)
    return Reconciler(
        home.ledger, home.store, made, bell, home.signer, settings.build_config(), home.incidents, schedule
    )


def environment(home: Home) -> dict[str, str]:
    """What the bits of all that is computed here depend on, beside their inputs."""
    return environment_of(computing_of(home.settings).train_device, kernel_variables())


def process_pool(home: Home) -> ProcessPool:
    """The processes that train, as many at a time as the settings say."""
    settings, chosen = home.settings, computing_of(home.settings)
    withhold_store_key()  # tasks are given the keys of what they read
    processes = settings.build_processes or (settings.cores() if chosen.train_device == "cpu" else 1)
    bound = GpuShare(chosen.train_device, settings.train_share) if chosen.shares_a_gpu else None
    return ProcessPool(processes, _PRELOAD, bound)


def _builder(
    home: Home, ledger: Ledger, store: Store, progress: Progress | None, prefill_cache: PrefillCache | None = None
) -> Builder:
    # A dry run builds into an empty store, where nothing can be damaged.
    note = home.incidents.note if store is home.store else ignore_damage
    return Builder(
        ledger,
        store,
        trained_model(home),
        process_pool(home),
        home.secret,
        environment(home),
        progress or Silent(),
        prefill_cache,
        note,
    )

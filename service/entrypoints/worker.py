"""The worker process."""

from __future__ import annotations

import logging
import os
import threading
import time

from service.building.progress import Progress
from service.config import Settings
from service.entrypoints import building
from service.entrypoints.bootstrap import Home
from service.entrypoints.garbage import keep_for_good
from service.entrypoints.observing import open_traces
from service.entrypoints.supervisor import exit_on_sigterm
from service.errors import LetheError

# What its fork server imports takes seconds of a processor that serving needs. Builds add a niceness of their own: with more
# than this, they would hardly go on beside a server that is never idle.
_NICENESS = 5
_PRUNING_SECONDS = (
    3600.0  # between two looks for entries of the audit trail, the outbox and impressions that are too old
)
_NOTIFIED_DAYS = 30.0  # for which notifications that are over are counted

log = logging.getLogger(__name__)


def run_worker(settings: Settings, supervised: bool, progress: Progress) -> None:
    """Reconcile until SIGTERM. A training that is under way is dropped: the ledger still owes it, the next run repeats it.

    From here on this process and all that it starts yield to serving.
    """
    os.nice(_NICENESS)
    exit_on_sigterm()
    if supervised:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    home = Home.open(settings)
    home.restore_check()
    building.process_pool(home).prepare()
    threading.Thread(target=_prune, args=(home,), daemon=True).start()
    webhooks, stop = home.webhooks(), threading.Event()
    if webhooks is not None:
        # A thread of its own: a receiver that is slow, or away, holds up no deletion.
        threading.Thread(target=webhooks.run, args=(stop,), daemon=True).start()
    traces = open_traces()
    bell = traces.bell(home.bell())
    reconciler = building.reconciler(home, bell, progress)
    keep_for_good()
    try:
        reconciler.run(stop, settings.retry_seconds)
    finally:
        stop.set()
        bell.close()
        home.ledger.close()
        traces.close()


def _prune(home: Home) -> None:
    while True:
        try:
            home.ledger.trail.prune(home.settings.audit_days)
            home.ledger.outbox.prune(_NOTIFIED_DAYS)
            home.ledger.impressions.prune(home.settings.impressions_days)
        except LetheError as error:
            log.warning("trail_not_pruned", extra={"kind": type(error).__name__})
        time.sleep(_PRUNING_SECONDS)


def _end_with_parent() -> None:
    # Not through `sys.stdin`: at its end the interpreter wants that lock, and aborts because this thread holds it.
    while os.read(0, 1):
        pass
    os._exit(0)

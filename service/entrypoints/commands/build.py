"""`lethe build`: ledger and settings -> the published generation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.entrypoints import building
from service.entrypoints.commands.console import err, print_report, progress_for_stderr
from service.entrypoints.commands.imports import import_demo_if_empty
from service.entrypoints.commands.options import (
    BUILD_SETTINGS,
    DemoOption,
    HomeOption,
    JsonOption,
    open_home,
    with_settings,
)
from service.forgetting.bell import Bell

_WAIT_POLL = 0.5  # seconds


@with_settings(BUILD_SETTINGS)
def build(given: dict[str, Any], demo: DemoOption = False, home: HomeOption = None, json_: JsonOption = False) -> None:
    """Make the generation that the ledger and the settings describe, and publish it. Computes only what is missing."""
    opened = open_home(home, given)
    if demo:
        import_demo_if_empty(opened)
    opened.restore_check()
    began = time.monotonic()
    bell = opened.bell()
    with progress_for_stderr() as progress, _undisturbed(bell):
        built = building.reconciler(opened, bell, progress).rebuild(opened.settings.build_config())
    bell.close()
    report = {
        "generation": built.generation,
        "shards": len(built.shards),
        "trained": len(built.trained),
        "validation_rows": len(built.rows),
        "seconds": round(time.monotonic() - began, 1),
    }
    print_report(report, json_)


@contextmanager
def _undisturbed(bell: Bell) -> Iterator[None]:
    """Wait until no worker is building."""
    told = False
    while True:
        with bell.courtesy_lock() as held:
            if held:
                yield
                return
        if not told:
            err.print("another process is building; waiting for it")
            told = True
        time.sleep(_WAIT_POLL)

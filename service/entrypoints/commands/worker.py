"""`lethe worker`: carries out deletions and builds what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from service.config import load_settings
from service.entrypoints.commands.console import progress_for_stderr
from service.entrypoints.commands.options import HomeOption
from service.entrypoints.telemetry import configure_logging
from service.entrypoints.worker import run_worker


def worker(
    home: HomeOption = None,
    supervised: Annotated[bool, typer.Option(hidden=True, help="End when standard input closes.")] = False,
) -> None:
    """Carry out deletions and build what is missing, until stopped."""
    settings = load_settings(home=home)
    configure_logging(settings.log_level)
    with progress_for_stderr() as progress:
        run_worker(settings, supervised, progress)

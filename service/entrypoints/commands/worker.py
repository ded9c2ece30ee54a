"""`lethe worker`: carries out deletions and builds what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from service.config import load_settings
from service.entrypoints.commands.options import HomeOption
from service.entrypoints.output import output_to_stderr
from service.entrypoints.worker import run_worker


def worker(
    home: HomeOption = None,
    supervised: Annotated[bool, typer.Option(hidden=True, help="End when standard input closes.")] = False,
    relayed: Annotated[bool, typer.Option(hidden=True, help="Write JSON for a display of another process.")] = False,
) -> None:
    """Carry out deletions and build what is missing, until stopped."""
    settings = load_settings(home=home)
    with output_to_stderr(settings.log_format, settings.log_level, relayed) as output:
        run_worker(settings, supervised, output)

"""Installations that are thrown away afterwards, for what measures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.options import open_home


@contextmanager
def scratch_home(given: Mapping[str, Any], database_url: str | None = None) -> Iterator[Home]:
    """An installation that is thrown away afterwards, but for a database that is named here."""
    with tempfile.TemporaryDirectory() as scratch:
        # Never the ledger of the installation, whatever LETHE_DATABASE_URL says: this one is thrown away.
        own = database_url or f"sqlite:///{scratch}/ledger.sqlite"
        opened = open_home(Path(scratch), {**given, "database_url": own})
        try:
            yield opened
        finally:
            opened.ledger.close()


def stated(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in given.items() if value is not None}

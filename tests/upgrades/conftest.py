"""Ledgers of earlier versions, restored from their dumps into both databases, and the home folders that belong to them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = sorted(path.name for path in FIXTURES.iterdir())


@dataclass(frozen=True)
class OldHome:
    """A home folder as that version left it; its ledger is at `url`. `facts` is what it said of itself."""

    folder: Path
    url: str
    facts: dict[str, Any]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.thorough)])
def url(
    request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[], AbstractContextManager[str]]
) -> Iterator[str]:
    """An empty database of either kind."""
    if request.param == "sqlite":
        (tmp_path / "home").mkdir(mode=0o700)
        yield f"sqlite:///{tmp_path / 'home' / 'ledger.sqlite'}"
        return
    with new_database() as opened:
        yield opened


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> OldHome:
    source = FIXTURES / request.param / ("sqlite" if url.startswith("sqlite") else "postgresql")
    folder = tmp_path / "home"
    shutil.copytree(source / "home", folder, dirs_exist_ok=True)
    for path in (folder, *folder.rglob("*")):  # git keeps no modes
        path.chmod(0o700 if path.is_dir() else 0o600)
    _restore(url, (source / "ledger.sql").read_text())
    return OldHome(folder, url, json.loads((source / "facts.json").read_text()))


def _restore(url: str, dump: str) -> None:
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(dump)
        path.chmod(0o600)
        return
    with psycopg.connect(url) as connection:
        connection.execute(dump)


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """A transaction of a client that knows nothing of Lethe."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        yield connection

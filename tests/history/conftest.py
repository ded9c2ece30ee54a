from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Installation
from tests.forks import Forks

from .replicas import SETTINGS, import_people

PEOPLE = 60


@dataclass(frozen=True)
class Populated:
    """An installation that is built, and what its people rated."""

    installation: Installation
    rated: dict[str, list[str]]


@pytest.fixture(scope="session")
def populated(tmp_path_factory: pytest.TempPathFactory, tiny_models: Callable[..., Path], forks: Forks) -> Populated:
    installation = Installation(tmp_path_factory.mktemp("history"), tiny_models("llama"), forks, **SETTINGS)
    rated = import_people(installation, PEOPLE)
    installation.build()
    return Populated(installation, rated)

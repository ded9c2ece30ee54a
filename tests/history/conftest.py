from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Commands, Installation

from .replicas import SETTINGS, import_people

PEOPLE = 60


@dataclass(frozen=True)
class Populated:
    """An installation that is built, what its people rated, and where its processes come from."""

    installation: Installation
    rated: dict[str, list[str]]
    commands: Commands


@pytest.fixture(scope="session")
def populated(tmp_path_factory: pytest.TempPathFactory, tiny_models: Callable[..., Path]) -> Iterator[Populated]:
    folder = tmp_path_factory.mktemp("history")
    commands = Commands(folder)
    installation = Installation(folder, tiny_models("llama"), commands, **SETTINGS)
    rated = import_people(installation, PEOPLE)
    installation.build()
    yield Populated(installation, rated, commands)
    commands.close()

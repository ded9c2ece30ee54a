from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Commands, Finished, Installation

from .replicas import SETTINGS, import_people

PEOPLE = 60


class Nursery(Commands):
    """Runs commands to their end, as all `Commands` do, and also begins some that go on."""

    def __init__(self, folder: Path) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: Sequence[str], environment: dict[str, str]) -> Finished:
        for file in (self._out, self._err):
            file.write_bytes(b"")
        code = self._ask(wait_for=self._begin(arguments, environment, self._out, self._err))
        return Finished(code, self._out.read_text(), self._err.read_text())

    def begin(self, arguments: Sequence[str], environment: dict[str, str], log: Path) -> Callable[[], None]:
        """Begin a command that goes on; what is returned ends it."""
        child = self._begin(arguments, environment, log, log)

        def end() -> None:
            os.kill(child, signal.SIGTERM)
            self._ask(wait_for=child)

        return end

    def _begin(self, arguments: Sequence[str], environment: dict[str, str], out: Path, err: Path) -> int:
        return self._ask(arguments=list(arguments), environment=environment, stdout=str(out), stderr=str(err))

    def _ask(self, **command: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@dataclass(frozen=True)
class Populated:
    """An installation that is built, what its people rated, and where its processes come from."""

    installation: Installation
    rated: dict[str, list[str]]
    nursery: Nursery


@pytest.fixture(scope="session")
def populated(tmp_path_factory: pytest.TempPathFactory, tiny_models: Callable[..., Path]) -> Iterator[Populated]:
    folder = tmp_path_factory.mktemp("history")
    nursery = Nursery(folder)
    installation = Installation(folder, tiny_models("llama"), nursery, **SETTINGS)
    rated = import_people(installation, PEOPLE)
    installation.build()
    yield Populated(installation, rated, nursery)
    nursery.close()

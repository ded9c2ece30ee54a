"""The smallest model, and folders that cost no disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.llm.spec import ModelSpec

from .homes import SMALLEST_MODEL

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def smallest_model(tiny_models: Callable[..., Path]) -> ModelSpec:
    return ModelSpec(str(tiny_models("llama", **SMALLEST_MODEL)))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder, in memory where there is such a place: these tests are not about disks, and sync much."""
    if not MEMORY.is_dir():
        yield tmp_path_factory.mktemp("exactness")
        return
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    yield folder
    shutil.rmtree(folder)

"""The tests of the channels can fail: with a channel opened on purpose, the one that names it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import mutants
from .mutants import MUTANTS, Mutant


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: `control.json`, and for each mutant what became of the test that must catch it."""
    copies, found = tmp_path_factory.mktemp("copies"), tmp_path_factory.mktemp("results")
    # Another hash seed than this process has: the order of a set must not matter either.
    environment = {**os.environ, "PYTHONHASHSEED": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, mutants.__file__, copies, found], check=True, env=environment, timeout=600)
    return found


def _result(results: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    assert not Path(found["service"]).is_relative_to(mutants.ROOT / "service"), "it ran the real code"
    return found


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_a_line_that_is_there(mutant: Mutant) -> None:
    """Whoever moves such a line learns of it here, and not in the long run alone."""
    assert (mutants.ROOT / mutant.file).read_text().count(mutant.old) == 1


@pytest.mark.thorough
def test_the_code_as_it_is_passes(results: Path) -> None:
    found = _result(results, "control")
    assert found["told"] == []
    assert found["passed"] == {mutant.caught_by: True for mutant in MUTANTS}


@pytest.mark.thorough
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_an_open_channel_is_caught(results: Path, mutant: Mutant) -> None:
    found = _result(results, mutant.name)
    assert found["passed"] == {mutant.caught_by: False}, found["told"]

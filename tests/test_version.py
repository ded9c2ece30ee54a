"""One version, wherever it is told."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from typer.testing import CliRunner

from service.entrypoints.commands.main import app
from service.version import VERSION
from tests.entrypoints.test_api import Door

ROOT = Path(__file__).parents[1]


def test_the_command_line_and_the_contract_tell_the_version() -> None:
    answered = CliRunner().invoke(app, ["--version"])
    assert (answered.exit_code, answered.output) == (0, f"lethe {VERSION}\n")
    assert Door().get("/openapi.json").json()["info"]["version"] == VERSION


def test_every_file_that_states_a_version_states_this_one() -> None:
    files = ("pyproject.toml", "research/pyproject.toml", "client/pyproject.toml")
    distributions = [tomllib.loads((ROOT / file).read_text())["project"]["version"] for file in files]
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["x-lethe"]["image"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert [*distributions, image.partition(":")[2], newest[1]] == [VERSION] * 5

"""`lethe pretrain` from the command line: what it refuses, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.entrypoints.commands.main import app
from service.errors import InvalidInput, InvalidSetting


def test_names_the_file_that_the_corpus_lacks(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["pretrain", "--corpus", str(tmp_path), "--out", str(tmp_path / "out")])

    assert isinstance(result.exception, InvalidInput)
    assert "movies.csv.xz" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_lessons_of_people_cannot_be_left_out_of_a_stage_that_has_no_other(tmp_path: Path) -> None:
    folders = ["--corpus", str(tmp_path), "--out", str(tmp_path / "out"), "--from", str(tmp_path)]
    result = CliRunner().invoke(app, ["pretrain", *folders, "--facts-only"])

    assert isinstance(result.exception, InvalidSetting)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--steps", "0"], ["--seed", "-1"], ["--architecture", "bert"]])
def test_refuses_impossible_options(options: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["pretrain", "--corpus", str(tmp_path), "--out", str(tmp_path), *options])

    assert result.exit_code == 2

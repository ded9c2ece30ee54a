"""`research/benchmarks/gpu.sh` without a GPU: all of it runs with a tiny model, and it needs little."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from research.benchmarks import gpu
from tests.exactness.homes import InThisProcess
from tests.test_architecture import ROOT, Module

_NOT_NEEDED = {"sqlalchemy", "faiss", "redis", "fastapi", "typer", "rich", "pyarrow", "pydantic", "cryptography"}


@pytest.mark.thorough
def test_smoke_fills_the_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    assert gpu.main(["--smoke", "--no-http", "--out", str(out)], InThisProcess()) == 0
    [section] = json.loads(out.read_text())["sections"]
    ceiling, *rows = section["rows"]
    assert ceiling["share of ceiling"] == 1.0
    filled = {row["what"]: {column for column, value in row.items() if value is not None} for row in rows}
    assert {what.rpartition(", ")[2] for what in filled} >= {
        "no adapters",
        "K = 2",
        "K = 5",
        "question",
        "prompt",
        "cached",
    }
    assert sum("PEFT cat per sample" in what or "SISA" in what for what in filled) == 2
    assert sum(what.startswith("attention of a layer") for what in filled) == 2
    assert sum(what.startswith("neighbors on the CPU") for what in filled) == 4
    assert [row["note"] for row in rows if row["what"] == "neighbors on the GPU"] == ["cpu: the model computes there"]
    for what, columns in filled.items():
        kinds = {"retrain": "seconds", "loading": "seconds", "batch 1": "p99 ms", "neighbors on the CPU": "samples/s"}
        kinds |= {"neighbors on the GPU": "note", "attention of a layer": "p99 ms"}
        kind = next((kind for start, kind in kinds.items() if what.startswith(start)), "share of ceiling")
        assert kind in columns, what
    assert "retrain 8 samples" in capsys.readouterr().out


def test_it_needs_little_more_than_torch_transformers_and_peft() -> None:
    reached, needed, waiting = {"research.benchmarks.gpu"}, set(), ["research.benchmarks.gpu"]
    while waiting:
        for name in _module(waiting.pop()).imports():
            needed.add(name.partition(".")[0])
            if _file(name) is not None and name not in reached:
                reached.add(name)
                waiting.append(name)
    assert "service.llm.mixture" in reached
    assert not needed & _NOT_NEEDED


def _module(name: str) -> Module:
    file = _file(name)
    assert file is not None
    return Module(name, file.name == "__init__.py", ast.parse(file.read_text()))


def _file(name: str) -> Path | None:
    place = ROOT / name.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)

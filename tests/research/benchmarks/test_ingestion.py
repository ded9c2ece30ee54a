"""The ingestion bench measures every way into a real ledger, and each of them really writes."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from research.benchmarks.ingestion import Stream
from service.entrypoints.commands.main import app


def test_every_way_is_told_beside_the_floor(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    options = ["--people", "20", "--items", "10", "--batch", "30", "--rounds", "2", "--out", str(out)]
    done = CliRunner().invoke(app, ["bench", "ingestion", *options])
    assert done.exit_code == 0, done.output
    [section] = json.loads(out.read_text())["sections"]
    rows = {row["way"]: row for row in section["rows"]}
    assert list(rows) == ["the database alone", "Ledger.take_events", "with event ids", "POST /interactions"]
    assert rows["the database alone"]["x floor"] == 1
    assert all(0 < row["least"] <= row["rows/s"] <= row["most"] for row in rows.values())


def test_a_stream_is_the_same_every_time_and_its_times_grow() -> None:
    stream = Stream(people=5, items=3, batch=4)
    first, second = zip(stream.batches("a"), range(2), strict=False), zip(stream.batches("a"), range(2), strict=False)
    one = [row for batch, _ in first for row in batch]
    assert one == [row for batch, _ in second for row in batch]
    assert [row[3] for row in one] == sorted({row[3] for row in one})

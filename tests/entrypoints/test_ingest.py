"""`lethe ingest` as a command: lines of a file into a ledger of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.config import load_settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.main import app
from service.records import Item


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with a catalog."""
    opened = Home.open(load_settings(home=tmp_path / "home"))
    opened.ledger.import_data([Item(f"i{n}", f"Film {n}") for n in range(4)], [], "movie")
    opened.ledger.close()
    return tmp_path / "home"


def ingested(home: Path, text: str, *options: str) -> tuple[int, dict[str, Any]]:
    file = home.parent / "events.jsonl"
    file.write_text(text)
    done = CliRunner().invoke(app, ["ingest", str(file), "--home", str(home), "--json", *options])
    return done.exit_code, json.loads(done.stdout)


def line(item: str, **fields: Any) -> str:
    return json.dumps({"user_id": "ann", "item_id": item, **fields}) + "\n"


def test_lines_are_taken_in_batches_and_twice_is_once(home: Path) -> None:
    text = (
        "".join(line(f"i{n}", event="play", event_id=f"e{n}") for n in range(3))
        + "\n"
        + line("i3", liked=False).rstrip()
    )
    assert ingested(home, text, "--batch", "2") == (0, {"new": 4})
    code, counts = ingested(home, text, "--batch", "2")
    assert (code, counts["duplicate"]) == (0, 3)


def test_a_line_that_cannot_be_read_is_counted_and_the_others_are_taken(home: Path) -> None:
    text = "no event\n" + line("i0", liked=True) + line("i0") + line("unknown", liked=True)
    assert ingested(home, text) == (1, {"malformed": 2, "new": 1, "unknown_item": 1})


def test_a_file_that_is_not_there_is_one_line_of_an_error(home: Path) -> None:
    done = CliRunner().invoke(app, ["ingest", str(home / "nothing"), "--home", str(home)])
    assert done.exit_code != 0

"""`lethe forget` for many: lists of people, and selections of rows, which are previewed before anything is changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.config import load_settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.main import app
from service.errors import ImportRefused, InvalidInput, SelectionChanged
from service.records import Interaction, Item


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home folder with three people, of whose rows some came from a feed."""
    opened = Home.open(load_settings(home=tmp_path / "home"))
    rows = [Interaction(user, f"i{n}", True, 1_000 * n) for user in ("ann", "bob", "cid") for n in range(3)]
    opened.ledger.import_data([Item(f"i{n}", f"Film {n}") for n in range(4)], rows, "movie")
    feed = [Interaction(user, "i3", True, 5_000) for user in ("ann", "bob")]
    opened.ledger.import_data([], feed, None, source="feed")
    yield opened
    opened.ledger.close()


def forget(home: Home, *options: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["forget", "--home", str(home.settings.home), "--json", *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return {"code": done.exit_code, **json.loads(done.stdout)}


def seen(home: Home) -> dict[str, set[str]]:
    return {user: set(home.ledger.seen(user)) for user in ("ann", "bob", "cid")}


EVERYTHING = {"ann": {"i0", "i1", "i2", "i3"}, "bob": {"i0", "i1", "i2", "i3"}, "cid": {"i0", "i1", "i2"}}


def test_the_rows_of_a_source_are_previewed_and_then_forgotten(home: Home) -> None:
    told = forget(home, "--source", "feed")
    assert (told["users"], told["interactions"], told["items"]) == (2, 2, 1)
    assert seen(home) == EVERYTHING
    done = forget(home, "--source", "feed", "--digest", told["digest"])
    assert (done["code"], done["requests"], done["held_anything"], len(done["request_ids"])) == (0, 2, 2, 2)
    assert seen(home) == {user: items - {"i3"} for user, items in EVERYTHING.items()}


def test_conditions_are_met_together(home: Home, tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("bob\ncid\n")
    chosen = [
        "--users",
        str(tmp_path / "people.txt"),
        "--since",
        "1970-01-01T00:16:40Z",
        "--item-id",
        "i1",
        "--item-id",
        "i0",
    ]
    told = forget(home, *chosen)
    assert (told["users"], told["interactions"]) == (2, 2)
    forget(home, *chosen, "--digest", told["digest"])
    assert seen(home) == {**EVERYTHING, "bob": {"i0", "i2", "i3"}, "cid": {"i0", "i2"}}


def test_people_of_a_list_are_forgotten_as_a_whole_each_with_a_request(home: Home, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("user_id\nann\nnobody\ncid\n")
    done = forget(home, "--users", str(tmp_path / "people.csv"))
    assert (done["code"], done["requests"], done["accepted"], done["completed"]) == (0, 3, 2, 1)
    assert seen(home) == {"ann": set(), "bob": EVERYTHING["bob"], "cid": set()}


def test_a_list_of_people_of_whom_nothing_is_held_says_so(home: Home, tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("nobody\nnone\n")
    assert forget(home, "--users", str(tmp_path / "people.txt"))["code"] == 3


def test_rows_that_came_meanwhile_are_not_forgotten_unseen(home: Home) -> None:
    told = forget(home, "--source", "feed")
    home.ledger.import_data([], [Interaction("cid", "i3", True, 6_000)], None, source="feed")
    with pytest.raises(SelectionChanged):
        forget(home, "--source", "feed", "--digest", told["digest"])
    assert seen(home) == {**EVERYTHING, "cid": {"i0", "i1", "i2", "i3"}}


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("ann", "--source", "feed"),
        ("ann", "--digest", "x"),
        ("--item-title", "Film 1"),
        ("--source", "two words"),
        ("--since", "yesterday"),
        ("--since", "2025-01-01T00:00:00"),
        ("--users", "people.txt", "--digest", "x"),
    ],
)
def test_what_says_not_clearly_whom_to_forget_is_refused(home: Home, options: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        forget(home, *options)
    assert seen(home) == EVERYTHING


def test_an_import_labels_its_rows(home: Home, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user_id,item_id,liked,timestamp\ndan,i0,1,7000\n")
    table = ["import", "table", "--home", str(home.settings.home), "--interactions", str(tmp_path / "rows.csv")]
    refused = CliRunner().invoke(app, [*table, "--item-type", "movie", "--source", "two words"])
    assert isinstance(refused.exception, ImportRefused)
    assert CliRunner().invoke(app, [*table, "--item-type", "movie", "--source", "export-7"]).exit_code == 0
    assert [row.source for row in home.ledger.export("dan").rows] == ["export-7"]

"""`lethe recommend --all`: what a server answers to each person, in one file, without whoever is forgotten meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import TRAINING_USERS, USERS, Installation, eventually

COMPARED = 40


def rows_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Everybody in a file of JSON lines -> their rows."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row.pop("user_id"), []).append(row)
    return found


def as_rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """An answer of `POST /recommend` in the form of the file."""
    told = {name: answer[name] for name in ("generation", "fence", "degraded")}
    return [{**item, **told} for item in answer["items"]]


@pytest.mark.thorough
def test_a_row_is_what_the_server_answers_on_the_demo(installations: Callable[..., Installation]) -> None:
    installation = installations(LETHE_EPOCHS="1", LETHE_MAX_SHARD_SIZE="2048")
    installation.lethe("import", "demo")
    installation.build()
    out = installation.folder / "everybody.jsonl"
    report = installation.report("recommend", "--all", "--top-k", "7", "--out", str(out))
    found = rows_of(out)
    assert (report["people"], report["rows"], report["left_out"]) == (400, 2_800, 0)
    with installation.serving_ready("--no-worker") as server:
        for user in list(found)[:: len(found) // COMPARED]:
            assert as_rows(server.recommend(user_id=user, top_k=7)) == found[user]


@pytest.mark.thorough
def test_who_is_forgotten_while_it_runs_is_not_in_the_file(copies: Callable[..., Installation]) -> None:
    """The deletion is accepted when the command is at work; it ends as if the person had never been named."""
    installation = copies()
    people = installation.folder / "people.txt"
    asked = [user for user in USERS if user != TRAINING_USERS[0]]
    people.write_text("\n".join(asked) + "\n")
    out = installation.folder / "people.jsonl"
    with installation.serving_ready("--no-worker") as server:
        command = installation._forks.begin(
            ["recommend", "--users", str(people), "--out", str(out), "--json", "--top-k", "20"],
            installation.environment,
            installation.folder / "recommend.out",
            installation.folder / "recommend.err",
        )
        eventually(lambda: _parts(installation.folder), "the command is at work")
        answer: httpx.Response = server.post("/forget", {"user_id": asked[0]})
        assert answer.status_code == 202
        assert command.wait() == 0
    assert asked[0] not in out.read_text()
    assert set(rows_of(out)) == set(asked[1:])


def _parts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".part")]

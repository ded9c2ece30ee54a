"""`lethe recommend` and the lists of people that commands read: what is refused, in one line, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.entrypoints.commands.main import app
from service.entrypoints.commands.people import people_in
from service.errors import InvalidInput, LetheError, NotReady


def refused(*arguments: str) -> LetheError:
    """What the command ends with."""
    done = CliRunner().invoke(app, ["recommend", *arguments])
    assert isinstance(done.exception, LetheError), done.output
    return done.exception


@pytest.mark.parametrize("chosen", [(), ("--all", "--users", "people.txt")])
def test_either_everybody_or_a_list_is_asked_for(chosen: tuple[str, ...], tmp_path: Path) -> None:
    assert "either --all" in str(refused("--out", str(tmp_path / "out.csv"), *chosen))


def test_without_a_generation_there_is_no_file(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out.parquet"
    assert isinstance(refused("--all", "--home", str(home), "--out", str(out)), NotReady)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    assert ".parquet" in str(refused("--all", "--home", str(tmp_path), "--out", str(tmp_path / "out.xlsx")))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("people.txt", "ann\n\n  bob \nann\r\n7\n"),
        ("people.csv", "name,user_id\nx,ann\ny, bob\nz,ann\nz,7\n"),
        ("people.jsonl", '{"user_id": "ann"}\n"bob"\n\n{"user_id": "ann", "more": 1}\n7\n'),
    ],
)
def test_people_are_read_once_each_in_their_order(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert people_in(tmp_path / name) == ["ann", "bob", "7"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("people.txt", "\n \n", "names nobody"),
        ("people.txt", f"ann\n{'secret' * 60}\n", "line 2"),
        ("people.csv", "id\nann\n", "no column user_id"),
        ("people.csv", "a,user_id\nann\n", "line 2"),
        ("people.jsonl", '{"user_id": "ann"}\n{secret}\n', "line 2: no JSON"),
        ("people.jsonl", '{"id": "secret"}\n', "line 1"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_without_quoting_it(
    name: str, text: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput, match=told) as error:
        people_in(tmp_path / name)
    assert "secret" not in str(error.value)

"""What somebody at a terminal is promised."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.entrypoints.commands.lazy import CommandEntry, loaded
from service.entrypoints.commands.main import app, commands
from tests.forks import PATIENCE, begin_afresh

from .conftest import OTHERS, RATED_EACH, TRAINING_USERS, USERS, Installation


def _paths(entries: Mapping[str, CommandEntry], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, entry in entries.items():
        command = loaded(entry)
        inner = getattr(command, "entries", {})
        yield from _paths(inner, (*path, name))
        yield from () if inner else ((*path, name, one) for one in getattr(command, "commands", {}))


@pytest.mark.parametrize("path", list(_paths(commands())), ids=lambda path: " ".join(path) or "lethe")
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    answer = CliRunner().invoke(app, [*path, "--help"])
    assert answer.exit_code == 0
    assert "Usage" in answer.output


@pytest.mark.thorough
def test_importing_the_demo_twice_changes_nothing(installations: Callable[..., Installation]) -> None:
    installation = installations()
    first = installation.lethe("import", "demo")
    assert "(0 new" not in first
    assert "(0 new interactions, 0 changed, 0 new items" in installation.lethe("import", "demo")


def test_building_twice_trains_nothing_the_second_time(built: Installation) -> None:
    before = built.adapter_files()
    again = built.build()
    assert again["trained"] == 0
    assert again["generation"] == built.report("status")["generation"]
    assert built.adapter_files() == before


def test_the_status_is_one_json_document(built: Installation) -> None:
    status = built.report("status")
    assert len(status["generation"]) == 64
    assert sum(shard["samples"] for shard in status["shards"]) == 13 * (len(TRAINING_USERS) - 1)
    assert {shard["digest"] for shard in status["shards"]} == set(built.adapter_files())
    assert status["owed"] == []


def test_the_status_for_people_names_every_shard(built: Installation) -> None:
    text = built.run("status", COLUMNS="200").out
    assert all(shard["digest"] in text for shard in built.report("status")["shards"])


def test_a_clean_build_gives_the_same_bytes(built: Installation) -> None:
    assert "byte for byte" in built.lethe("verify", "--rebuild")


def test_a_rebuild_is_not_compared_while_a_deletion_is_owed(installations: Callable[..., Installation]) -> None:
    installation = installations()
    installation.import_people(USERS[:8])
    installation.build()
    installation.lethe("forget", USERS[0])
    refused = installation.run("verify", "--rebuild")
    assert refused.code == 1
    assert "deletions that are not completed yet: 1;" in refused.err
    assert "differ" not in refused.err


def test_a_deletion_needs_no_server_when_the_caller_waits(built: Installation) -> None:
    before = built.report("status")
    answer = built.report("forget", OTHERS[0], "--wait")
    assert answer["state"] == "completed"
    assert set(answer["affected_shards"]) <= {shard["digest"] for shard in before["shards"]}
    assert len(answer["affected_shards"]) == 1
    after = built.report("status")
    assert after["owed"] == []
    assert after["generation"] != before["generation"]
    assert built.run("verify").code == 0


@pytest.mark.thorough
def test_a_person_is_restricted_and_held_from_the_command_line(installations: Callable[..., Installation]) -> None:
    installation = installations()
    installation.import_people(USERS[:3])
    told = installation.report("rights", "restrict", USERS[0], "--objection")
    assert (told["ground"], told["interactions"]) == ("objection", RATED_EACH)
    assert installation.report("status")["users"] == 2
    assert installation.report("rights", "show", USERS[0])["restriction"] == told
    assert "of restricted people skipped" in installation.import_people(USERS[:3])
    assert installation.report("rights", "lift", USERS[0]) == {"lifted": True, "interactions": RATED_EACH}
    assert installation.report("rights", "hold", USERS[0], "--ground", "court order")["ground"] == "court order"
    held = installation.run("forget", USERS[0], "--wait", "--json")
    assert (held.code, json.loads(held.out)["state"]) == (0, "held")
    assert "lethe rights release" in held.err
    released = installation.report("rights", "release", USERS[0])
    assert released["deletions"] == [json.loads(held.out)["request_id"]]
    assert installation.report("rights", "show", USERS[0]) == {"restriction": None, "hold": None}
    merged = installation.report("rights", "merge", USERS[1], "--into", USERS[2])
    assert (merged["outcome"], merged["counts"]["interactions"]) == ("merged", RATED_EACH)
    assert installation.report("status")["users"] == 1
    assert installation.run("rights", "merge", USERS[1], "--into", USERS[2]).code == 1
    assert "no impressions are held" in installation.lethe("quality")


def test_a_file_with_malformed_rows_is_named_with_its_line_and_nothing_is_imported(
    installations: Callable[..., Installation], tmp_path: Path
) -> None:
    installation = installations()
    items, interactions = tmp_path / "items.csv", tmp_path / "said.csv"
    items.write_text("item_id,title\ni1,Heat\n")
    interactions.write_text("user_id,item_id,liked,timestamp\nann,i1,1,5\nbob,i1,perhaps,6\n")
    given = ["--items", str(items), "--interactions", str(interactions), "--max-rejected", "0"]
    refused = installation.run("import", "table", *given)
    assert refused.code == 1
    assert "said.csv line 3" in refused.err
    assert "bob" not in refused.err
    status = installation.report("status")
    assert (status["items"], status["interactions"]) == (0, 0)


def test_an_unknown_variable_is_refused_by_its_name(installations: Callable[..., Installation], tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**installations().environment, "LETHE_EPOCH": "3"}
    # Afresh, for once: elsewhere here it is a fork that makes the exit code.
    assert begin_afresh(["status"], environment, log).wait(PATIENCE) == 1
    refused = log.read_text()
    assert "LETHE_EPOCH" in refused
    assert len(refused.splitlines()) == 1


@pytest.mark.parametrize("command", ["build", "serve"])
def test_a_model_that_cannot_answer_yes_or_no_is_refused_in_one_line(
    installations: Callable[..., Installation], tiny_model: Path, tmp_path: Path, command: str
) -> None:
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    _forget_word(tmp_path / "tokenizer.json", "Yes")
    installation = installations(tmp_path)
    installation.import_people(USERS[:8])
    refused = installation.run(command)
    assert refused.code == 1
    assert len(refused.err.splitlines()) == 1
    assert "'Yes'" in refused.err
    assert "single token" in refused.err


def _forget_word(tokenizer: Path, word: str) -> None:
    content = json.loads(tokenizer.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["unsaid"] = vocabulary.pop(word)
    content["model"]["merges"] = [merge for merge in content["model"]["merges"] if "".join(merge) != word]
    tokenizer.write_text(json.dumps(content))


def test_a_damaged_file_fails_verification_in_one_line(built: Installation) -> None:
    digest = built.report("status")["shards"][0]["digest"]
    weights = built.home / "store" / "adapters" / digest / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    damaged = built.run("verify")
    weights.write_bytes(content)
    assert damaged.code == 1
    assert len(damaged.err.splitlines()) == 1
    assert digest in damaged.err
    assert built.run("verify").code == 0

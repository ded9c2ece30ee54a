"""One whole evaluation on a tiny model and simulated people; then its parts, by hand."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters_store import Store
from research.evaluation.forgetting import (
    Exam,
    compare,
    samples_by_user,
    set_aside,
)
from research.evaluation.metrics import auc, log_loss
from research.evaluation.scoring import Unmasked
from service.data.importers.movie_lens import GENRES
from service.entrypoints.commands.main import app
from service.records import BuildConfig, Interaction, Item, RatedItem, Sample
from service.scoring.requests import EncodedRequest, Scored, ScoreRequest
from service.scoring.scorer import Scorer
from tests.manifests import manifest

pytestmark = pytest.mark.thorough

PEOPLE, FILMS, FORGOTTEN = 30, 24, 2
SETTINGS = {
    "max-shard-size": 24,
    "tree-depth": 2,
    "samples-per-user": 3,
    "history-length": 3,
    "validation-percent": 20,
    "lora-rank": 2,
    "lora-alpha": 4,
    "learning-rate": 0.05,
    "epochs": 1,
    "build-processes": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated people in MovieLens's own format."""
    folder, chance = tmp_path_factory.mktemp("movielens"), random.Random(0)
    flags = "|".join("1" if genre == "Drama" else "0" for genre in GENRES)
    films = [f"{n}|Film {n} (1990)|01-Jan-1990||http://films/{n}|0|{flags}" for n in range(1, FILMS + 1)]
    rows = [
        f"{user}\t{film}\t{chance.randint(1, 5)}\t{chance.randrange(10**6)}"
        for user in range(1, PEOPLE + 1)
        for film in chance.sample(range(1, FILMS + 1), 6)
    ]
    (folder / "u.item").write_text("\n".join(films) + "\n", "latin-1")
    (folder / "u.data").write_text("\n".join(rows) + "\n", "latin-1")
    return folder


@pytest.fixture(scope="module")
def report(folder: Path, tiny_models: Callable[..., Path]) -> dict[str, Any]:
    options = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
    options += ["--model", str(tiny_models("llama")), "--unit", "user", "--tried", "5", "--forgotten", str(FORGOTTEN)]
    done = CliRunner().invoke(app, ["evaluate", "forgetting", str(folder), *options, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_what_is_left_after_forgetting_is_the_clean_build_byte_for_byte(report: dict[str, Any]) -> None:
    story = report["story"]
    assert story["bytes_identical"] is True
    assert story["claim"] == "strict"
    assert story["files_differing"] == 0
    assert story["files_compared"] > 3 * story["shards_after"]
    assert story["generation_before"] != story["generation_after"] == story["generation_clean"]


def test_a_story_counts_people_samples_and_shards(report: dict[str, Any]) -> None:
    story = report["story"]
    assert (story["people"], story["test_people"]) == (PEOPLE - PEOPLE // 10, PEOPLE // 10)
    assert story["test_samples"] == 3 * story["test_people"]
    assert story["forgotten_people"] == FORGOTTEN
    assert story["members"] == story["non_members"] == 3 * FORGOTTEN
    assert 1 <= story["shards_masked"] <= FORGOTTEN < story["shards_before"]
    assert 1 <= story["shards_retrained"] <= story["shards_masked"]
    assert story["build_seconds"] > 0
    assert story["masked_to_completed_seconds"] > 0


def test_what_is_measured_after_is_what_the_clean_build_gives_at_either_precision(report: dict[str, Any]) -> None:
    measured = {(row.pop("weights"), row.pop("state")): row for row in report["story"]["measured"]}
    assert len(measured) == 6
    for weights in ("as served", "int8"):
        assert measured[weights, "after"] == measured[weights, "clean build"]
        assert measured[weights, "after"] != measured[weights, "before"]
    assert measured["int8", "before"] != measured["as served", "before"]


def test_the_placement_table_has_a_row_for_each_partition_and_number_of_shards(report: dict[str, Any]) -> None:
    rows = report["placement"]
    assert {(row["unit"], row["partition"]) for row in rows} == {
        ("user", partition) for partition in ("tree", "random", "algorithm1")
    }
    assert len(rows) == 12
    assert all(row["touched_max"] == 1 for row in rows if row["partition"] == "algorithm1")


def test_the_tables_can_be_read_by_people(folder: Path, tiny_models: Callable[..., Path]) -> None:
    options = ["--only", "placement", "--unit", "user", "--users", "20", "--model", str(tiny_models("llama"))]
    done = CliRunner().invoke(app, ["evaluate", "forgetting", str(folder), *options], catch_exceptions=False)
    assert done.exit_code == 0
    assert "algorithm1" in done.stdout
    assert "touched" in done.stdout
    assert "…" not in done.stdout


# Comparing stores


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    """Two stores of one content."""
    store = Store(tmp_path / "one")
    store.adapters.add("a" * 64, {"adapter_model.safetensors": b"weights"})
    store.publish(store.add_generation(manifest().stated(), {"errors.npy": b"errors", "rows.json": b"[]"}))
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    return store, Store(tmp_path / "other")


def test_equal_stores_are_identical(stores: tuple[Store, Store]) -> None:
    comparison = compare(*stores)
    assert comparison.identical
    assert comparison.files == 7  # an adapter and its sums, two files and their manifest, ACTIVE and FORMAT


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("damage", ["one bit", "gone", "one more"])
def test_a_doctored_store_is_not_identical(stores: tuple[Store, Store], number: int, damage: str) -> None:
    path = sorted(path for path in stores[1].root.rglob("*") if path.is_file())[number]
    if damage == "one bit":
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "gone":
        path.unlink()
    else:
        path = path.with_name("more")
        path.touch()
    comparison = compare(*stores)
    assert not comparison.identical
    assert comparison.differing == (str(path.relative_to(stores[1].root)),)
    assert not compare(*stores[::-1]).identical


# The exam


class Answers(Scorer):
    """Gives each target the score that the table says."""

    def __init__(self, table: Mapping[str, float]) -> None:
        self._table = table

    def encoded(self, requests: Sequence[ScoreRequest]) -> list[EncodedRequest]:
        ids = [[candidate.item_id for candidate in request.candidates] for request in requests]
        return [EncodedRequest((), tuple(tuple(item_id.encode()) for item_id in own)) for own in ids]

    def score(self, requests: Sequence[EncodedRequest]) -> list[Scored]:
        return [
            Scored(tuple(self._table[bytes(ids).decode()] for ids in request.questions), {}, (), "", 0, False)
            for request in requests
        ]


def _sample(name: str, liked: bool) -> Sample:
    return Sample(name, (), Item(name, name), liked)


def test_an_exam_is_marked_by_hand() -> None:
    test = [_sample("t0", True), _sample("t1", False), _sample("t2", True), _sample("t3", False)]
    members = [_sample("m0", True), _sample("m1", False)]
    table = {"t0": 0.9, "t1": 0.8, "t2": 0.4, "t3": 0.3, "m0": 0.95, "m1": 0.6}
    exam = Exam(tuple(test), tuple(members), (0, 3))
    found = exam.take(Answers(table), "as served", "before")
    scores, liked = [0.9, 0.8, 0.4, 0.3], [True, False, True, False]
    assert (found.auc, found.log_loss) == (auc(scores, liked), log_loss(scores, liked))
    # Losses: members −ln 0.95 and −ln 0.4, the others −ln 0.9 and −ln 0.7; of four pairs the first member wins its two.
    assert found.membership_auc == 0.5


def test_there_are_as_many_non_members_as_members_and_none_twice() -> None:
    test = [_sample(f"t{n}", True) for n in range(9)]
    exam = Exam.of(test, [_sample(f"m{n}", True) for n in range(4)], seed=1)
    assert len(set(exam.non_members)) == 4
    assert set(exam.non_members) <= set(range(9))
    assert len(Exam.of(test[:2], exam.members, seed=1).non_members) == 2


def test_a_tenth_of_the_people_is_set_aside_with_all_that_is_theirs() -> None:
    rows = [Interaction(f"u{n % 30}", f"i{n}", True, n) for n in range(90)]
    kept, test = set_aside(rows, seed=5)
    assert len({row.user_id for row in test}) == 3
    assert not {row.user_id for row in test} & {row.user_id for row in kept}
    assert sorted(kept + test, key=lambda row: row.timestamp) == rows
    assert set_aside(rows, seed=5) == (kept, test)


def test_test_windows_are_cut_as_a_build_cuts_them() -> None:
    items = [Item(f"i{n}", f"Film {n}") for n in range(4)]
    rows = [Interaction("u", item.item_id, n % 2 == 0, n) for n, item in enumerate(items)]
    found = samples_by_user(rows, items, BuildConfig(samples_per_user=1, history_length=2))
    history = (RatedItem(items[1], False), RatedItem(items[2], True))
    assert found == {"u": (Sample("u", history, items[3], False),)}


def test_an_unmasked_generation_masks_nothing() -> None:
    mask = Unmasked("g").mask()
    assert (mask.generation, mask.adapters, mask.rows) == ("g", frozenset(), frozenset())

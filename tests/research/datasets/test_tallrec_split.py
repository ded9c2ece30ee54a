"""Lethe's windows and words against the 10,000 prompts that TALLRec released for MovieLens-100K."""

from __future__ import annotations

import csv
import json
import lzma
from ast import literal_eval
from pathlib import Path

import pytest

from research.datasets.tallrec import TallrecSplit, tallrec_split, tallrec_windows
from service.data import importers, prompts
from service.records import Interaction, Item, Sample

PARTS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def split(shared_data: Path) -> TallrecSplit:
    dataset = importers.movielens(shared_data / "ml-100k")
    return tallrec_split(dataset.interactions, {item.item_id: item for item in dataset.items})


def released_form(sample: Sample) -> dict[str, str]:
    return {
        "instruction": prompts.instruction("movie"),
        "input": prompts.history_text(sample.history) + prompts.target_text(sample.target, "movie"),
        "output": "Yes." if sample.liked else "No.",
    }


@pytest.mark.thorough
@pytest.mark.parametrize(("part", "count"), [("train", 8_000), ("valid", 1_000), ("test", 1_000)])
def test_every_prompt_equals_the_released_one(shared_data: Path, split: TallrecSplit, part: str, count: int) -> None:
    with lzma.open(shared_data / "tallrec" / "movie" / f"{part}.json.xz", "rt", encoding="utf-8") as file:
        released = json.load(file)
    ours = [released_form(sample) for sample in getattr(split, part)]
    assert len(ours) == count
    assert ours == released


@pytest.mark.parametrize("part", PARTS)
def test_every_window_is_of_the_released_user_and_items(shared_data: Path, split: TallrecSplit, part: str) -> None:
    with lzma.open(shared_data / "tallrec" / "movie" / f"baseline_{part}.csv.xz", "rt") as lines:
        released = [
            (row["user_id"], literal_eval(row["history_movie_id"]), row["movie_id"]) for row in csv.DictReader(lines)
        ]
    windows: tuple[Sample, ...] = getattr(split, part)
    assert released == [(w.user_id, [o.item.item_id for o in w.history], w.target.item_id) for w in windows]


def test_tallrec_windows_need_a_full_history_and_keep_the_files_order_within_a_second() -> None:
    items = {f"i{n:02}": Item(f"i{n:02}", f"Title {n}") for n in range(30)}
    same_second = [Interaction("b", f"i{n:02}", True, 5) for n in reversed(range(11))]
    earlier = [Interaction("a", f"i{n:02}", True, 1) for n in range(10)]
    windows = list(tallrec_windows([same_second[0], *earlier, *same_second[1:]], items))
    assert [window.target.item_id for window in windows] == ["i00"]
    assert [opinion.item.item_id for opinion in windows[0].history] == [f"i{n:02}" for n in range(10, 0, -1)]

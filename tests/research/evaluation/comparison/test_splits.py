"""What methods are compared on: nobody's samples in two places that must be apart, and the same cut every time."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from research.evaluation.comparison.splits import (
    Split,
    bookcrossing,
    movielens_100k,
    table,
)
from service.data import prompts
from service.errors import ImportRefused, InvalidSetting
from service.records import Item, RatedItem, Sample

ITEMS = tuple(Item(f"i{n}", f"Item {n}", 1990 + n, ("Drama",)) for n in range(12))


def sample(n: int, liked: bool = True) -> Sample:
    return Sample(f"u{n % 5}", (RatedItem(ITEMS[n % 12], True),), ITEMS[(n + 1) % 12], liked)


SPLIT = Split(
    "tiny", "item", ITEMS, tuple(sample(n) for n in range(20)), (sample(20),), (sample(21), sample(22, False))
)


def items_of(split: Split) -> set[Item]:
    every = (*split.train, *split.valid, *split.test)
    return {item for one in every for item in (one.target, *(o.item for o in one.history))}


# Drawing


def test_a_draw_is_of_the_pool_without_repeats_and_the_seed_decides_it() -> None:
    drawn = SPLIT.drawn(8, seed=3)
    assert len(set(drawn)) == 8
    assert set(drawn) <= set(SPLIT.train)
    assert drawn == SPLIT.drawn(8, seed=3)
    assert set(drawn) != set(SPLIT.drawn(8, seed=4))


def test_more_than_the_pool_holds_is_refused() -> None:
    assert len(SPLIT.drawn(20, seed=0)) == 20
    with pytest.raises(InvalidSetting, match="tiny has only 20"):
        SPLIT.drawn(21, seed=0)


# Rehearsing


def test_a_validation_run_cuts_the_validation_users_in_two_and_forgets_the_test_samples() -> None:
    split = replace(SPLIT, valid=tuple(sample(n) for n in range(30, 45)))
    validation_run = split.validation_run()
    assert {one.user_id for one in validation_run.valid} == {"u0", "u2", "u4"}
    assert {one.user_id for one in validation_run.test} == {"u1", "u3"}
    assert sorted([*validation_run.valid, *validation_run.test], key=repr) == sorted(split.valid, key=repr)
    assert (validation_run.train, validation_run.items, validation_run.item_type) == (
        split.train,
        split.items,
        split.item_type,
    )
    assert validation_run.dataset == "tiny (validation)"
    assert replace(split, test=()).validation_run() == validation_run
    assert validation_run.digest != split.digest


def test_one_validation_user_cannot_rehearse() -> None:
    with pytest.raises(InvalidSetting, match="tiny has 1 validation user"):
        SPLIT.validation_run()


# Digest


CHANGES: dict[str, Callable[[Split], Split]] = {
    "noun": lambda split: replace(split, item_type="book"),
    "items": lambda split: replace(split, items=split.items[1:]),
    "order": lambda split: replace(split, train=split.train[::-1]),
    "part": lambda split: replace(split, train=(*split.train, *split.valid), valid=()),
    "label": lambda split: replace(split, test=(sample(21, False), sample(22, False))),
    "user": lambda split: replace(split, valid=(replace(split.valid[0], user_id="x"),)),
    "title alike": lambda split: replace(split, valid=(replace(split.valid[0], target=Item("x", "Item 9")),)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_sees_every_change(change: str) -> None:
    changed = CHANGES[change](SPLIT)
    assert changed != SPLIT
    assert changed.digest != SPLIT.digest


def test_the_digest_does_not_hang_on_the_name() -> None:
    assert replace(SPLIT, dataset="tiny, moved").digest == replace(SPLIT).digest == SPLIT.digest


# Book-Crossing


def released(numbers: Iterable[int]) -> str:
    return json.dumps([prompt(n) for n in numbers])


def prompt(n: int) -> dict[str, str]:
    book, target = Item("", f"Book {n}", author=f"Author {n % 7}"), Item("", f"Book {n + 1}", author="Somebody")
    words = prompts.history_text([RatedItem(book, n % 3 > 0)]) + prompts.target_text(target, "book")
    return {"instruction": prompts.instruction("book"), "input": words, "output": "Yes." if n % 2 else "No."}


def books(folder: Path, valid: int = 520, test: int = 10) -> Path:
    (folder / "valid.json").write_text(released(range(valid)))
    (folder / "test.json").write_text(released(range(1000, 1000 + test)))
    return folder


def test_the_released_validation_prompts_are_pool_or_validation_and_all_are_used(tmp_path: Path) -> None:
    split = bookcrossing(books(tmp_path))
    assert (len(split.train), len(split.valid), len(split.test)) == (20, 500, 10)
    users = [one.user_id for one in (*split.train, *split.valid, *split.test)]
    assert len(set(users)) == 530
    assert {user for user in users if "valid" in user} == {f"book-valid-{n:05}" for n in range(520)}
    assert split == bookcrossing(tmp_path)


def test_every_book_is_in_the_catalog_once(tmp_path: Path) -> None:
    split = bookcrossing(books(tmp_path))
    assert set(split.items) == items_of(split)
    assert len({item.item_id for item in split.items}) == len(split.items)


@pytest.mark.parametrize(("valid", "test"), [(500, 10), (520, 0)])
def test_too_few_prompts_are_refused(tmp_path: Path, valid: int, test: int) -> None:
    with pytest.raises(ImportRefused, match="too few prompts"):
        bookcrossing(books(tmp_path, valid, test))


def test_book_crossing_as_released(shared_data: Path) -> None:
    split = bookcrossing(shared_data / "tallrec" / "book")
    assert (len(split.train), len(split.valid), len(split.test)) == (1_927, 500, 2_427)
    assert set(split.items) == items_of(split)


# MovieLens


@pytest.mark.thorough
def test_movielens_as_tallrec_cut_it(shared_data: Path) -> None:
    split = movielens_100k(shared_data / "ml-100k")
    assert (len(split.items), len(split.train), len(split.valid), len(split.test)) == (1_682, 8_000, 1_000, 1_000)
    assert items_of(split) <= set(split.items)
    assert list(split.drawn(1_024, seed=7)) == random.Random(7).sample(split.train, 1_024)


def test_a_part_of_movielens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "u.item").write_text("1|Heat (1995)|01-Jan-1995||http://x" + "|0" * 19 + "\n")
    (tmp_path / "u.data").write_text("7\t1\t4\t881250949\n")
    with pytest.raises(ImportRefused, match="too few ratings"):
        movielens_100k(tmp_path)


# Tables


def rows_of(people: int, each: int = 4) -> list[tuple[str, str, str, int]]:
    return [(f"p{p}", f"i{(p + n) % 12}", str((p + n) % 2), n) for p in range(people) for n in range(each)]


def tables(folder: Path, rows: list[tuple[str, str, str, int]], opinion: str = "liked") -> Path:
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "title"), *((item.item_id, item.title) for item in ITEMS)])
    with (folder / "interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", opinion, "timestamp"), *rows])
    return folder


def test_a_table_is_cut_by_people(tmp_path: Path) -> None:
    split = table(tables(tmp_path, rows_of(200)), item_type="song")
    people = [{one.user_id for one in part} for part in (split.train, split.valid, split.test)]
    assert len(set.union(*people)) == sum(map(len, people)) == 200
    assert [len(part) for part in people] == pytest.approx([160, 20, 20], abs=12)
    assert (split.dataset, split.item_type, len(split.items)) == (tmp_path.name, "song", 12)


def test_a_person_stays_in_their_part_whoever_else_is_there(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "half").mkdir()
    everybody = table(tables(tmp_path / "all", rows_of(200)))
    half = table(tables(tmp_path / "half", rows_of(100)))
    for part in ("train", "valid", "test"):
        assert set(getattr(half, part)) <= set(getattr(everybody, part))


def test_the_order_of_rows_does_not_matter_and_a_later_row_replaces_an_earlier_one(tmp_path: Path) -> None:
    rows = rows_of(100)
    before = table(tables(tmp_path, rows))
    assert table(tables(tmp_path, rows[::-1])) == before
    assert table(tables(tmp_path, [*rows, ("p3", rows[12][1], "0", -99), ("p3", rows[12][1], "1", -98)])) == before


def test_ratings_count_as_liked_above_what_is_said(tmp_path: Path) -> None:
    rows = [(user, item, str(4 + int(liked)), time) for user, item, liked, time in rows_of(100)]
    split = table(tables(tmp_path, rows, "rating"), liked_above=4.0)
    assert split.test == table(tables(tmp_path, rows_of(100))).test
    with pytest.raises(ImportRefused, match="above which rating"):
        table(tables(tmp_path, rows, "rating"))


def test_too_few_people_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="too few people"):
        table(tables(tmp_path, rows_of(3)))


def test_a_test_part_without_dislikes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="both likes and dislikes"):
        table(tables(tmp_path, [(user, item, "1", time) for user, item, _, time in rows_of(100)]))


def test_interactions_of_unknown_items_are_left_out_and_many_are_refused(tmp_path: Path) -> None:
    elsewhere = ("p1", "elsewhere", "1", 9)
    assert table(tables(tmp_path, [*rows_of(100), elsewhere])) == table(tables(tmp_path, rows_of(100)))
    with pytest.raises(ImportRefused, match="no catalog row"):
        table(tables(tmp_path, [*rows_of(100), *[elsewhere] * 9]))


@pytest.mark.parametrize("missing", ["items", "interactions"])
def test_a_missing_table_is_named(tmp_path: Path, missing: str) -> None:
    (tables(tmp_path, rows_of(100)) / f"{missing}.csv").unlink()
    with pytest.raises(ImportRefused, match=f"no {missing} file"):
        table(tmp_path)

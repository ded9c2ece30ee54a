"""What is held out, and that nothing but times, ids and keyed hashes decides it."""

from __future__ import annotations

import json
import lzma
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from research.evaluation.ranking.protocols import (
    LAST_TENTH,
    LEAVE_ONE_OUT,
    PROTOCOLS,
    TIME_CUT,
    Ratings,
    by_person,
    cut,
    in_order,
)
from service.data import importers
from service.errors import InvalidSetting
from service.records import Interaction


@pytest.fixture
def timeless(ratings: Ratings) -> Ratings:
    return replace(ratings, rows=tuple(replace(row, timestamp=0) for row in ratings.rows))


def shuffled(ratings: Ratings) -> Ratings:
    return replace(ratings, rows=tuple(random.Random(1).sample(ratings.rows, len(ratings.rows))))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_order_of_lines_decides_nothing(ratings: Ratings, protocol: str) -> None:
    one, other = cut(ratings, protocol), cut(shuffled(ratings), protocol)
    assert dict(one.test) == dict(other.test)
    assert set(one.train) == set(other.train)


@pytest.mark.parametrize("protocol", [LAST_TENTH, LEAVE_ONE_OUT])
def test_the_order_of_lines_decides_nothing_without_times(timeless: Ratings, protocol: str) -> None:
    one, other = cut(timeless, protocol), cut(shuffled(timeless), protocol)
    assert dict(one.test) == dict(other.test)
    assert set(one.train) == set(other.train)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_relevant_was_liked_and_is_not_in_training(ratings: Ratings, protocol: str) -> None:
    split = cut(ratings, protocol)
    liked = {(row.user_id, row.item_id) for row in ratings.rows if row.liked}
    trained = {(row.user_id, row.item_id) for row in split.train}
    relevant = {(user, item) for user, items in split.test.items() for item in items}
    assert relevant
    assert relevant <= liked - trained


def test_the_last_tenth_comes_after_everything_else(ratings: Ratings) -> None:
    split = cut(ratings, LAST_TENTH)
    before, rows = by_person(split.train), by_person(ratings.rows)
    assert all(before[user] == in_order(rows[user])[:-1] for user in rows)  # of 14 rows one


def test_the_last_like_and_what_came_after_it_are_left_out(ratings: Ratings) -> None:
    split = cut(ratings, LEAVE_ONE_OUT)
    for user, rows in by_person(ratings.rows).items():
        *_, (place, row) = [(place, row) for place, row in enumerate(in_order(rows)) if row.liked]
        assert split.test[user] == (row.item_id,)
        assert by_person(split.train)[user] == in_order(rows)[:place]


def test_a_time_cut_is_one_moment_for_all(ratings: Ratings) -> None:
    moment = sorted(row.timestamp for row in ratings.rows)[int(0.9 * len(ratings.rows))]
    split = cut(ratings, TIME_CUT)
    assert set(split.train) == {row for row in ratings.rows if row.timestamp < moment}


def test_without_times_a_tenth_is_drawn_and_no_moment_can_be_cut_at(timeless: Ratings) -> None:
    split = cut(timeless, LAST_TENTH)
    assert len(split.train) == len(timeless.rows) - len(by_person(timeless.rows))
    with pytest.raises(InvalidSetting, match="no times"):
        cut(timeless, TIME_CUT)


def test_whoever_has_few_rows_without_times_is_not_tested(timeless: Ratings) -> None:
    few = timeless.rows[:9]
    others = [row for row in timeless.rows if row.user_id != few[0].user_id]
    split = cut(replace(timeless, rows=(*few, *others)), LAST_TENTH)
    assert few[0].user_id not in split.test
    assert set(few) <= set(split.train)


def test_tuning_sees_no_row_that_is_held_out(ratings: Ratings) -> None:
    split = cut(ratings, LAST_TENTH)
    tuning = split.for_tuning()
    seen = {(row.user_id, row.item_id) for row in tuning.train}
    seen |= {(user, item) for user, items in tuning.test.items() for item in items}
    assert not seen & {(user, item) for user, items in split.test.items() for item in items}


def test_short_histories_are_the_newest_rows_of_a_fifth_of_the_tested(ratings: Ratings) -> None:
    split = cut(ratings, LAST_TENTH)
    short, none = split.with_short_histories(3), split.with_short_histories(0)
    assert 0 < len(short.test) < len(split.test)
    own = by_person(split.train)
    assert all(by_person(short.train)[user] == in_order(own[user])[-3:] for user in short.test)
    assert not {row.user_id for row in none.train} & set(none.test)


def test_of_two_rows_with_one_person_and_item_the_last_counts(ratings: Ratings) -> None:
    again = Interaction(ratings.rows[0].user_id, ratings.rows[0].item_id, not ratings.rows[0].liked, 99)
    found = Ratings.of("tiny", "film", ratings.items, [*ratings.rows, again])
    assert len(found.rows) == len(ratings.rows)
    assert again in found.rows


def test_an_unknown_protocol_is_refused_with_the_list_of_known_ones(ratings: Ratings) -> None:
    with pytest.raises(InvalidSetting, match=r"'magic'.*last-10%"):
        cut(ratings, "magic")


@pytest.mark.parametrize(("protocol", "theirs"), [(LAST_TENTH, "last"), (TIME_CUT, "time")])
@pytest.mark.thorough
def test_movielens_is_cut_as_the_published_figures_have_it(
    shared_data: Path, tmp_path: Path, protocol: str, theirs: str
) -> None:
    script = shared_data.parent / "measure" / "split.py"
    if not script.is_file():
        pytest.skip("the script of the published figures is not here")
    for name in ("u.data", "u.item"):
        packed = (shared_data / "ml-100k" / f"{name}.xz").read_bytes()
        (tmp_path / name).write_bytes(lzma.decompress(packed))
    command = [sys.executable, str(script), str(tmp_path), str(tmp_path / "out"), "--protocol", theirs]
    subprocess.run(command, check=True, capture_output=True)
    wanted = json.loads((tmp_path / "out" / "split.json").read_text())
    read = importers.movielens(tmp_path)
    split = cut(Ratings.of("movielens-100k", "movie", read.items, read.interactions), protocol)
    train = {user: [[row.item_id, row.liked] for row in rows] for user, rows in by_person(split.train).items()}
    assert {user: list(items) for user, items in split.test.items()} == wanted["test"]
    assert train == {user: rows for user, rows in wanted["train"].items() if rows}
    assert [item.item_id for item in split.items] == wanted["items"]

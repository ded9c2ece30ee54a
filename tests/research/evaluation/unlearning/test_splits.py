"""Order, cuts and draws: by time for all together, by a hash where there is no time, whole people, never a file's order."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from research.evaluation.unlearning.splits import BY_HASH, BY_TIME, Cut, OrderedSamples, read
from service.errors import ImportRefused, InvalidSetting
from service.records import Sample


def key(sample: Sample) -> tuple[str, str]:
    return sample.user_id, sample.target.item_id


def write_table(folder: Path, rows: list[tuple[str, str, int, int]]) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["item_id", "title"], *([f"f{n}", f"Film {n} (1990)"] for n in range(30))])
    with (folder / "interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["user_id", "item_id", "liked", "timestamp"], *rows])
    return folder


def ratings(timed: bool) -> list[tuple[str, str, int, int]]:
    chance = random.Random(5)
    return [
        (f"p{person:02}", f"f{film}", chance.randrange(2), 1000 * place + person if timed else 0)
        for person in range(12)
        for place, film in enumerate(chance.sample(range(30), 11))
    ]


def table(folder: Path, rows: list[tuple[str, str, int, int]]) -> OrderedSamples:
    return read("table", write_table(folder, rows), 3, "film", None)


def test_samples_with_times_are_cut_by_time_for_all_people_together(tmp_path: Path) -> None:
    rows = ratings(timed=True)
    found = table(tmp_path, rows)
    assert found.order == BY_TIME
    when = {(user, item): seconds for user, item, _, seconds in rows}
    cut = found.cut()
    train, valid, test = ([when[key(s)] for s in part] for part in (cut.lessons.train, cut.lessons.valid, cut.test))
    assert max(train) <= min(valid) <= max(valid) <= min(test)
    assert (len(train), len(valid), len(test)) == (72, 24, 24)
    assert all(sample.history and len(sample.history) <= 3 for sample in cut.lessons.train)


def test_nothing_depends_on_the_order_of_a_file(tmp_path: Path) -> None:
    for timed in (True, False):
        rows = ratings(timed)
        straight = table(tmp_path, rows)
        random.Random(1).shuffle(rows)
        assert table(tmp_path, rows) == straight


def test_without_times_each_person_is_cut_in_the_order_of_a_hash(tmp_path: Path) -> None:
    found = table(tmp_path, ratings(timed=False))
    assert found.order == BY_HASH
    cut = found.cut()
    for part, count in ((cut.lessons.train, 6), (cut.lessons.valid, 2), (cut.test, 2)):
        assert {sum(sample.user_id == f"p{n:02}" for sample in part) for n in range(12)} == {count}
    by_item = [sorted(s.target.item_id for s in part if s.user_id == "p00") for part in (cut.lessons.train, cut.test)]
    assert by_item[0][-1] > by_item[1][0]  # a file sorted by item would give test nothing but the last items


def test_a_draw_holds_whole_people_and_no_more_samples_than_were_asked_for(tmp_path: Path) -> None:
    found = table(tmp_path, ratings(timed=True))
    drawn = found.drawn(75)
    people = [placed.sample.user_id for placed in drawn.placed]
    assert len(people) == 70
    assert {people.count(user) for user in people} == {10}
    assert found.drawn(10_000) is found


def test_a_fifth_of_the_people_forget_all_their_training_samples(cut: Cut) -> None:
    forgetting = cut.lessons.forgetting(3)
    assert len(forgetting.users) == 2
    assert {cut.lessons.train[row].user_id for row in forgetting.forgotten} == forgetting.users
    assert not {cut.lessons.train[row].user_id for row in forgetting.retained} & forgetting.users
    assert sorted((*forgetting.forgotten, *forgetting.retained)) == list(range(len(cut.lessons.train)))
    assert {cut.lessons.forgetting(seed).users for seed in range(8)} != {forgetting.users}


def test_too_few_people_are_refused(tmp_path: Path) -> None:
    rows = [row for row in ratings(timed=True) if row[0] in ("p00", "p01")]
    with pytest.raises(InvalidSetting, match="too few to forget a fifth"):
        table(tmp_path, rows).cut().lessons.forgetting(0)
    with pytest.raises(ImportRefused, match="likes and dislikes"):
        table(tmp_path, [(user, item, 1, seconds) for user, item, _, seconds in rows]).cut()


def test_movielens_1m_is_read_with_what_is_known_of_its_times(tmp_path: Path) -> None:
    (tmp_path / "movies.dat").write_text(
        "1::Toy Story (1995)::Comedy\n2::Heat (1995)::Action|Crime\n3::Jaws (1975)::Horror\n"
    )
    header = "user_id,movie_id,rating,timestamp,ts_src,rank\n"
    lines = ["1,1,5,300,E,2", "1,2,2,300,I,1", "1,3,4,300,E,3", "2,3,4,100,E,1", "2,1,1,400,I,2", "2,9,1,500,E,3"]
    (tmp_path / "ratings_reconstructed.csv").write_text(header + "\n".join(lines) + "\n")
    found = read("movielens-1m", tmp_path, 10, "", None)
    assert [key(placed.sample) for placed in found.placed] == [("1", "1"), ("1", "3"), ("2", "1")]
    first = found.placed[0].sample
    assert [opinion.item.title for opinion in first.history] == ["Heat (1995)"]  # by rank, at one second
    assert (first.liked, first.history[0].liked) == (True, False)
    assert [placed.exact for placed in found.placed] == [True, True, False]

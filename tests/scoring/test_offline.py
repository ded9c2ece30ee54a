"""Recommendations into a file: in order, one at a time, and never of whom something was forgotten meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from service.data.exporters import ExportFile
from service.errors import NotReady
from service.ledger import Ledger
from service.records import Interaction, Item
from service.scoring.offline import COLUMNS, OfflineCounts, OfflineJob, OneByOne
from service.scoring.requests import EncodedRequest, Query, RankBy, Ranked, Recommendation, Scored

ITEMS = [Item(f"i{n}", f"Film {n}") for n in range(4)]
PEOPLE = [f"person-{n}" for n in range(8)]


class Newest:
    """Recommends what a person saw last, and calls back before the answer to one of them."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.before: dict[str, Callable[[], object]] = {}

    async def recommend(self, query: Query) -> Recommendation:
        assert query.user_id is not None
        assert query.strict
        self.before.pop(query.user_id, lambda: None)()
        history = self.ledger.history(query.user_id, 10)
        seen = [Ranked(one.item.item_id, one.item.title, 0.5, n) for n, one in enumerate(reversed(history), 1)]
        fence = self.ledger.mask().fence
        return Recommendation("g", fence, False, tuple(seen[: query.top_k]), {}, (), RankBy.MODEL)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    rows = [Interaction(user, item.item_id, True, n) for user in PEOPLE for n, item in enumerate(ITEMS)]
    with Ledger(tmp_path / "ledger.sqlite", b"a secret of the tests") as opened:
        opened.import_data(ITEMS, rows, "movie")
        yield opened


def written(
    ledger: Ledger, recommender: Newest, users: Sequence[str], path: Path
) -> tuple[OfflineCounts, dict[str, list[str]]]:
    """What was counted; and of everybody in the file the items."""
    with ExportFile(path, COLUMNS) as file:
        counts = asyncio.run(OfflineJob(recommender, ledger, file, 3).run(users))
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines()[1:]:
        user, _, item, *_ = line.split(",")
        found.setdefault(user, []).append(item)
    return counts, found


def test_everybody_has_their_rows_in_order(ledger: Ledger, tmp_path: Path) -> None:
    counts, found = written(ledger, Newest(ledger), PEOPLE, tmp_path / "out.csv")
    assert found == {user: ["i3", "i2", "i1"] for user in PEOPLE}
    assert list(found) == PEOPLE
    assert counts == OfflineCounts(people=8, rows=24)


def test_who_is_unknown_or_restricted_is_left_out(ledger: Ledger, tmp_path: Path) -> None:
    ledger.restraints.restrict(PEOPLE[2], "objection")
    asked = [PEOPLE[1], "nobody", PEOPLE[2], PEOPLE[3]]
    counts, found = written(ledger, Newest(ledger), asked, tmp_path / "out.csv")
    assert list(found) == [PEOPLE[1], PEOPLE[3]]
    assert (counts.people, counts.left_out) == (2, 2)


def test_who_is_forgotten_or_restricted_meanwhile_is_not_in_the_file(ledger: Ledger, tmp_path: Path) -> None:
    recommender = Newest(ledger)
    recommender.before = {
        PEOPLE[6]: lambda: ledger.forget(PEOPLE[0], None, None),
        PEOPLE[7]: lambda: ledger.restraints.restrict(PEOPLE[1], "restriction"),
    }
    counts, found = written(ledger, recommender, PEOPLE, tmp_path / "out.csv")
    assert list(found) == PEOPLE[2:]
    assert counts == OfflineCounts(people=6, rows=18, left_out=2, dropped=2)
    assert PEOPLE[0] not in (tmp_path / "out.csv").read_text()


def test_of_whom_one_interaction_is_forgotten_meanwhile_the_rest_answers(ledger: Ledger, tmp_path: Path) -> None:
    recommender = Newest(ledger)
    recommender.before = {PEOPLE[7]: lambda: ledger.forget(PEOPLE[0], ["i3"], None)}
    counts, found = written(ledger, recommender, PEOPLE, tmp_path / "out.csv")
    assert found[PEOPLE[0]] == ["i2", "i1", "i0"]
    assert found[PEOPLE[1]] == ["i3", "i2", "i1"]
    assert counts == OfflineCounts(people=8, rows=24, dropped=1)


def test_a_deletion_while_others_are_asked_again_is_seen_too(ledger: Ledger, tmp_path: Path) -> None:
    """The second comes when the first has already made the file be looked through."""
    recommender = Newest(ledger)

    def first() -> None:
        ledger.forget(PEOPLE[0], ["i3"], None)
        recommender.before[PEOPLE[0]] = lambda: ledger.forget(PEOPLE[1], None, None)

    recommender.before = {PEOPLE[7]: first}
    _, found = written(ledger, recommender, PEOPLE, tmp_path / "out.csv")
    assert sorted(found) == [PEOPLE[0], *PEOPLE[2:]]


def test_where_an_answer_fails_there_is_no_file(ledger: Ledger, tmp_path: Path) -> None:
    def fail() -> None:
        raise NotReady("the store is gone")

    recommender = Newest(ledger)
    recommender.before = {PEOPLE[5]: fail}
    with pytest.raises(NotReady):
        written(ledger, recommender, PEOPLE, tmp_path / "out.csv")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_people_are_read_in_pages_with_those_who_have_just_arrived(ledger: Ledger) -> None:
    ledger.advance_horizon()
    ledger.import_data([], [Interaction("after", "i0", True, 9), Interaction(PEOPLE[0], "i0", False, 9)], None)
    ledger.restraints.restrict(PEOPLE[4], "objection")
    pages, last = [], None
    while page := ledger.users_after(last, 3):
        pages.append(page)
        last = page[-1]
    assert [user for page in pages for user in page] == sorted(["after", *PEOPLE[:4], *PEOPLE[5:]])
    assert [len(page) for page in pages] == [3, 3, 2]


class Counting:
    """Scores by the number of the call, on a thread that it notes."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.threads: set[str] = set()

    def score(self, requests: Sequence[EncodedRequest]) -> list[Scored]:
        self.batches.append(len(requests))
        self.threads.add(threading.current_thread().name)
        return [Scored(tuple(0.5 for _ in one.questions), {}, (), "g", 0, False) for one in requests]


def test_each_request_is_scored_alone_and_a_large_one_in_pieces() -> None:
    scorer = Counting()
    small = EncodedRequest((1, 2), ((3,), (4,)))
    large = EncodedRequest((1,) * 4, ((2,) * 4,) * 5)

    async def ask() -> list[Scored]:
        return list(await asyncio.gather(*(queue.submit(one, 1.0, "") for one in (small, large, small))))

    with OneByOne(scorer, 12) as queue:
        queue.admit(1.0, "")
        answers = asyncio.run(ask())
    assert [len(one.scores) for one in answers] == [2, 5, 2]
    assert scorer.batches == [1] * (2 + 3)
    assert len(scorer.threads) == 1

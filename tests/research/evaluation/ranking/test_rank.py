"""The whole ranking on tiny data: what is in it, and that it is computed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from research.evaluation.comparison.notebook import Notebook
from research.evaluation.ranking.contest import Contest
from research.evaluation.ranking.knowledge import Knowledge
from research.evaluation.ranking.lethe import BOTH, ROWS, Workshop
from research.evaluation.ranking.masked import OWED, forgotten_and_asked
from research.evaluation.ranking.new_items import RANDOM, drawn, without_items
from research.evaluation.ranking.peers.literature import PEERS
from research.evaluation.ranking.peers.peer import grid
from research.evaluation.ranking.protocols import LAST_TENTH, HeldOut, Ratings, cut
from research.evaluation.ranking.rank import Circumstances, Wanted, rank
from research.evaluation.ranking.report import render
from research.evaluation.ranking.results import (
    ADAPTERS,
    EVERYBODY,
    MASKED,
    MEMORIES,
    NEW_ITEMS,
    STORED_BYTES,
    STRANGERS,
    Ranking,
)
from research.evaluation.ranking.rivals import may_enter, tuned
from research.evaluation.ranking.strangers import LENGTHS, set_aside
from service.building.progress import Silent

pytestmark = pytest.mark.thorough

NAMES = ("popularity", "itemknn", "session-knn")
NOTHING_MORE = Wanted(draws=0, strangers=False)
CIRCUMSTANCES = Circumstances({}, {"cores": "1"}, "lethe evaluate ranking DIR --dataset table")


class Dying(Silent):
    """A progress that is interrupted in a phase."""

    def __init__(self, phase: str) -> None:
        self._phase = phase

    def phase(self, name: str, total: int) -> None:
        if name == self._phase:
            raise KeyboardInterrupt


class Unasked:
    """Runs nothing: whoever gives it a task has asked."""

    processes = 1

    def run(
        self, function: Callable[..., Any], tasks: Sequence[Any], on_steps: Callable[[int], None] = lambda _: None
    ) -> Iterator[tuple[int, Any]]:
        raise AssertionError("something was to be computed")

    def beside(self, function: Callable[..., Any], task: Any) -> Any:
        raise AssertionError("something was to be computed")


def contest_in(folder: Path, ratings: Ratings, workshop: Workshop, progress: Silent | None = None) -> Contest:
    return Contest(ratings, cut(ratings, LAST_TENTH), workshop, Notebook(folder / "cells"), progress or Silent())


def ranked(contest: Contest, wanted: Wanted = NOTHING_MORE, names: Sequence[str] = NAMES) -> Ranking:
    return rank(contest, [PEERS[name] for name in names], wanted, CIRCUMSTANCES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranking")


@pytest.fixture(scope="module")
def whole(place: Path, ratings: Ratings, workshop: Workshop) -> Ranking:
    return ranked(contest_in(place, ratings, workshop), Wanted(draws=2, strangers=True, masked=True))


def test_every_method_has_a_row_and_every_lead_is_over_it(whole: Ranking) -> None:
    assert [row.method for row in whole.rows] == [*NAMES, *ROWS]
    everybody = {one.method: one for one in whole.part(EVERYBODY)}
    assert set(everybody) == {*NAMES, *ROWS}
    for row in whole.rows:
        assert everybody[row.method].ndcg == row.figures["ndcg@10"]
        lead = everybody[row.method].lead
        if row.method == BOTH:
            assert lead is None
        else:
            assert lead is not None
            assert lead.mean == pytest.approx(everybody[BOTH].ndcg - everybody[row.method].ndcg)
            assert lead.low <= lead.mean <= lead.high


def test_of_lethe_it_is_told_what_it_holds_and_of_peers_nothing(whole: Ranking) -> None:
    holds = {row.method: row.holds for row in whole.rows}
    assert all(min(holds[method].values()) > 0 for method in ROWS)
    assert set(holds[BOTH]) == {ADAPTERS, MEMORIES, STORED_BYTES}
    assert all(holds[name] == {} for name in NAMES)
    assert f"{holds[BOTH][STORED_BYTES]:,}" in render(whole)


def test_while_deletions_are_owed_the_others_are_still_asked(
    place: Path, whole: Ranking, ratings: Ratings, workshop: Workshop
) -> None:
    found = whole.part(MASKED)
    assert [one.method for one in found] == [
        f"{owed} deletions owed" if owed != 1 else "1 deletion owed" for owed in OWED
    ]
    gone, asked = forgotten_and_asked(contest_in(place, ratings, workshop))
    assert len(gone) == max(OWED)
    assert set(gone).isdisjoint(asked)
    assert {one.asked for one in found} == {len(asked)}


def test_what_was_found_goes_through_json_and_onto_a_page(whole: Ranking) -> None:
    again = Ranking.from_json(json.loads(json.dumps(whole.to_json(), allow_nan=False)))
    assert again.to_json() == whole.to_json()
    page = render(again)
    assert page == render(again)
    assert f"{whole.rows[0].figures['ndcg@10']:.4f}" in page
    assert all(name in page for name in (*NAMES, *ROWS, "New items", "Strangers"))


def test_nobody_is_named_in_what_is_left(whole: Ranking, place: Path, ratings: Ratings) -> None:
    people = {row.user_id for row in ratings.rows}
    left = [path.read_text() for path in place.rglob("*.json")] + [json.dumps(whole.to_json())]
    assert [user for user in people if any(f'"{user}"' in text for text in left)] == []


def test_a_second_ranking_asks_nobody_and_says_the_same(
    whole: Ranking, place: Path, ratings: Ratings, workshop: Workshop
) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*.json")}
    broken = replace(workshop, process_pool=Unasked())
    again = ranked(contest_in(place, ratings, broken), Wanted(draws=2, strangers=True, masked=True))
    assert replace(again, date=whole.date) == whole
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.json")} == before


def test_an_interrupted_ranking_goes_on_where_it_stopped(tmp_path: Path, ratings: Ratings, workshop: Workshop) -> None:
    with pytest.raises(KeyboardInterrupt):
        ranked(contest_in(tmp_path, ratings, workshop, Dying("lethe: asking")))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(kept) == 2 * len(NAMES)  # what was chosen for each peer, and what it answered
    ranked(contest_in(tmp_path, ratings, workshop))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.thorough
def test_other_settings_of_lethe_ask_lethe_again_and_no_peer(
    tmp_path: Path, ratings: Ratings, workshop: Workshop
) -> None:
    one = ranked(contest_in(tmp_path, ratings, workshop), names=("popularity",))
    changed = replace(workshop, config=replace(workshop.config, min_people=5))
    other = ranked(contest_in(tmp_path, ratings, changed), names=("popularity",))
    assert other.rows[0] == one.rows[0]
    assert other.rows[1:] != one.rows[1:]


def test_settings_are_chosen_where_no_test_row_is(tmp_path: Path, ratings: Ratings, workshop: Workshop) -> None:
    hidden = contest_in(tmp_path, ratings, workshop)
    object.__setattr__(hidden.split, "test", dict.fromkeys(hidden.split.test, ("f0",)))
    seen = contest_in(tmp_path / "other", ratings, workshop)
    for name in ("itemknn", "session-knn"):
        peer = replace(PEERS[name], fitting=PEERS[name].fitting[:2], asking=PEERS[name].asking[:3])
        assert tuned(hidden, peer) == tuned(seen, peer)


def test_where_nothing_has_an_order_nothing_fades(tmp_path: Path, ratings: Ratings, workshop: Workshop) -> None:
    timeless = replace(ratings, rows=tuple(replace(row, timestamp=0) for row in ratings.rows))
    assert set(tuned(contest_in(tmp_path, timeless, workshop), PEERS["session-knn"])["asking"]) == {"neighbors"}
    assert set(tuned(contest_in(tmp_path, ratings, workshop), PEERS["session-knn"])["asking"]) == {
        "neighbors",
        "fading",
    }


def test_a_peer_that_means_nothing_here_is_left_out(ratings: Ratings) -> None:
    timeless = replace(ratings, rows=tuple(replace(row, timestamp=0) for row in ratings.rows))
    known, unordered = (Knowledge.of(cut(each, LAST_TENTH)) for each in (ratings, timeless))
    assert may_enter(PEERS["ease-recent"], known)
    assert not may_enter(PEERS["ease-recent"], unordered)
    assert not may_enter(replace(PEERS["ease"], most_items=10, fitting=grid(penalty=(1,))), known)


# New items and strangers


def test_new_items_are_a_fifth_of_the_catalog_that_nobody_has_met(split: HeldOut) -> None:
    new = drawn(split, 0)
    without = without_items(split, new)
    assert len(new) == len(split.items) // 5
    assert new != drawn(split, 1)
    assert without.items == split.items
    assert not new & {row.item_id for row in without.train}
    assert {item for items in without.test.values() for item in items} <= new
    assert set(without.test) <= {row.user_id for row in without.train}


def test_new_items_are_ranked_beside_chance(whole: Ranking, ratings: Ratings, split: HeldOut) -> None:
    methods = {one.method: one for one in whole.part(NEW_ITEMS)}
    assert set(methods) == {*ROWS, RANDOM}
    asked = sum(len(without_items(split, drawn(split, draw)).test) for draw in range(2))
    assert {one.asked for one in methods.values()} == {asked}


def test_strangers_are_set_aside_whole_and_asked_for_the_same_at_every_length(whole: Ranking, ratings: Ratings) -> None:
    aside = set_aside(ratings)
    assert 0 < len(aside) < len({row.user_id for row in ratings.rows}) / 2
    for stranger in aside.values():
        assert len(stranger.first) == max(LENGTHS)
        assert not {row.item_id for row in stranger.first} & set(stranger.liked_next)
        assert stranger.history(0) == ()
        assert stranger.history(3) == stranger.first[-3:]
    found = whole.part(STRANGERS)
    assert {one.group for one in found} == {f"{length} rows" for length in LENGTHS}
    assert {one.method for one in found} == {BOTH, *NAMES}
    assert {one.asked for one in found} == {len(aside)}

"""Turns, ratios and tables, with a clock that the contestants move themselves."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from research.benchmarks.interleaved import (
    Contestant,
    Floor,
    Lap,
    race,
)
from research.benchmarks.report import (
    Goal,
    document,
    goals_of,
    section_of,
    text_of,
)


class World:
    """A clock, and who ran when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def contestant(self, name: str, seconds: list[float], work: float = 1.0) -> Contestant:
        left = iter(seconds)

        def run() -> None:
            self.ran.append(name)
            self.now += next(left)

        return Contestant(name, run, work, Floor(10 * work, 1e9 * work))

    def clock(self) -> float:
        return self.now


@pytest.fixture
def world() -> World:
    return World()


def test_contestants_take_turns_after_everybody_has_warmed_up(world: World) -> None:
    a, b = world.contestant("a", [9, 1, 1]), world.contestant("b", [9, 2, 2])
    timings = race([a, b], 2, clock=world.clock)
    assert world.ran == ["a", "b", "a", "b", "a", "b"]
    assert [timing.seconds for timing in timings] == [(1, 1), (2, 2)]


def test_a_ratio_is_of_throughputs_and_of_one_round(world: World) -> None:
    # The machine is ten times slower in the second round, for both.
    fast, base = world.contestant("fast", [1, 10, 1], work=4), world.contestant("base", [3, 30, 3], work=2)
    timings = race([fast, base], 3, warmups=0, clock=world.clock)
    assert timings[0].ratios(timings[1]) == pytest.approx((6, 6, 6))
    assert timings[0].throughput == 4
    assert timings[0].spread == 9


def test_waiting_for_the_device_counts(world: World) -> None:
    def settle() -> None:
        world.now += 0.5

    [timing] = race([world.contestant("a", [1])], 1, warmups=0, clock=world.clock, settle=settle)
    assert timing.seconds == (1.5,)


def test_a_run_may_say_which_part_of_it_counts(world: World) -> None:
    [timing] = race([Contestant("a", lambda: Lap(0.25), 1, Floor(1, 1))], 2, clock=world.clock)
    assert timing.seconds == (0.25, 0.25)


@pytest.mark.parametrize(("names", "rounds"), [(["a", "a"], 1), (["a"], 0), ([], 1)], ids=["same", "none", "nobody"])
def test_what_cannot_be_compared_is_refused(world: World, names: list[str], rounds: int) -> None:
    with pytest.raises(ValueError, match="rounds of"):
        race([world.contestant(name, []) for name in names], rounds)


@pytest.fixture
def table(world: World) -> Callable[[], str]:
    def shown() -> str:
        found = race([world.contestant("base", [2, 2], 4), world.contestant("b", [1, 1], 4)], 1, clock=world.clock)
        return text_of(section_of("a race", found, "base", "sample", ["how it was counted"]))

    return shown


def test_the_table_sets_every_figure_beside_its_floor(table: Callable[[], str]) -> None:
    title, head, _, base, other, note = table().splitlines()
    assert title == "a race"
    assert note.strip() == "how it was counted"
    columns = [column.strip() for column in head.split("  ") if column.strip()]
    rows = [dict(zip(columns, line.split(), strict=True)) for line in (base, other)]
    assert [row["sample/s"] for row in rows] == ["2", "4"]
    assert [row["x base"] for row in rows] == ["1", "2"]
    assert [row["floor tokens/sample"] for row in rows] == ["10", "10"]
    assert [row["GFLOP/s of floor"] for row in rows] == ["2", "4"]


def test_goals_say_whether_they_are_met_and_the_document_is_json() -> None:
    section = goals_of([Goal("enough", 2.0, 2.0), Goal("too little", 2.0, 1.9, 3.0), Goal("told", None, 1.0)])
    assert [row["met"] for row in section.rows] == ["yes", "no", "told"]
    written = json.loads(json.dumps(document("one", {"rounds": 1}, [section])))
    assert written["sections"][0]["rows"][1]["ideal"] == 3.0
    assert {"processor", "cores", "threads", "torch"} <= set(written["machine"])

"""Lethe in a ranking: one installation, asked for everybody, in parts that an interrupted ranking need not ask again."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

from research.evaluation.comparison.compare import warm_up
from research.evaluation.ranking.contest import (
    Answered,
    Contest,
    by_method,
    in_parts,
    timed_each,
)
from research.evaluation.ranking.lethe import ROWS, Installation, installed
from research.evaluation.ranking.protocols import HeldOut

_PART = 200  # people


def served(contest: Contest) -> dict[str, Answered]:
    """Row -> its lists for everybody tested. It is built once, unless all answers are in the notebook."""
    inputs = {"split": contest.digest, "served": contest.served}
    with at_need(contest, contest.split) as opened:
        parts = []
        for part, people in enumerate(in_parts(contest.split.people, _PART)):
            of_part = {**inputs, "part": part, "size": _PART}
            parts.append(contest.notebook.recall("served", of_part, partial(_ask, contest, opened, people)))
        # Last, because afterwards somebody is missing.
        costs = contest.notebook.recall("costs", inputs, lambda: _costs(contest, opened()))
    answer_seconds = statistics.fmean(seconds for part in parts for seconds in part["seconds"])
    lists = by_method([part["lists"] for part in parts])
    return {row: Answered(lists[row], {}, answer_seconds=answer_seconds, **costs) for row in ROWS}


@contextmanager
def at_need(contest: Contest, split: HeldOut) -> Iterator[Callable[[], Installation]]:
    """A function that gives the installation of a split, which is built when it is first called."""
    with ExitStack() as stack:

        @cache
        def opened() -> Installation:
            # The first task waits until the libraries are loaded, which is nothing that a build takes.
            list(contest.workshop.process_pool.run(warm_up, [None]))
            return stack.enter_context(installed(contest.workshop, split, contest.progress))

        yield opened


def _ask(contest: Contest, opened: Callable[[], Installation], people: Sequence[str]) -> dict[str, Any]:
    installation = opened()
    contest.progress.phase("lethe: asking", len(people))
    each = list(timed_each(people, installation.top, contest.progress))
    lists = {row: [contest.numbers(top[row]) for top, _ in each] for row in ROWS}
    return {"lists": lists, "seconds": [seconds for _, seconds in each]}


def _costs(contest: Contest, installation: Installation) -> dict[str, Any]:
    return {
        "build_seconds": installation.build_seconds,
        "holds": installation.holds,
        "forget_seconds": installation.forget(contest.forgotten),
    }

"""Contestants timed in turns, A B C A B C …, so that what slows the machine for a while slows them all.

Each round gives one ratio of any two contestants; the median over rounds is told, with the least and the most. A ratio is of
throughputs: 2 means twice as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from service.building.progress import Progress, Silent


@dataclass(frozen=True, slots=True)
class Floor:
    """What one run must spend, however it is written: tokens that go through the layers, floating-point operations."""

    tokens: float
    flops: float


@dataclass(frozen=True, slots=True)
class Lap:
    """Returned by a run of which only a part counts."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do the work. A run does `work` units (samples, people …); it is called many times."""

    name: str
    run: Callable[[], object]
    work: float
    floor: Floor


@dataclass(frozen=True, slots=True)
class Timing:
    """What one contestant took, in seconds, in each round."""

    name: str
    work: float
    floor: Floor
    seconds: tuple[float, ...]

    @property
    def median_seconds(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest − fastest round) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median_seconds

    @property
    def throughput(self) -> float:
        """Units of work a second, at the median."""
        return self.work / self.median_seconds

    def ratios(self, base: Timing) -> tuple[float, ...]:
        """This throughput / that of `base`, round by round."""
        pairs = zip(self.seconds, base.seconds, strict=True)
        return tuple(self.work / ours * theirs / base.work for ours, theirs in pairs)


def race(
    contestants: Sequence[Contestant],
    rounds: int,
    *,
    warmups: int = 1,
    settle: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = perf_counter,
    progress: Progress | None = None,
) -> tuple[Timing, ...]:
    """Run everybody `warmups` times untimed, then `rounds` times in turns; in the order given.

    `settle` returns when the device has finished what was queued: it is called before and after each timed run.

    Raises:
        ValueError: no rounds, nobody, or two of one name.
    """
    names = [contestant.name for contestant in contestants]
    if rounds < 1 or not names or len(set(names)) != len(names):
        raise ValueError(f"{rounds} rounds of {names}")
    instrumented_ledger = progress or Silent()
    instrumented_ledger.phase("running in turns", (warmups + rounds) * len(names))
    for contestant in contestants:
        for _ in range(warmups):
            contestant.run()
            instrumented_ledger.advance(1)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for contestant in contestants:
            seconds[contestant.name].append(_timed(contestant.run, settle, clock))
            instrumented_ledger.advance(1)
    return tuple(Timing(each.name, each.work, each.floor, tuple(seconds[each.name])) for each in contestants)


def _timed(run: Callable[[], object], settle: Callable[[], None], clock: Callable[[], float]) -> float:
    settle()
    began = clock()
    found = run()
    settle()
    return found.seconds if isinstance(found, Lap) else clock() - began

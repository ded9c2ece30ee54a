"""What a benchmark found, as a table for a terminal and as JSON. Needs nothing but Python, as benchmarks run in bare places."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from research.benchmarks.interleaved import Timing


@dataclass(frozen=True, slots=True)
class Section:
    """One table: rows of the same columns. `notes` say how figures and floors were counted."""

    title: str
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


def section_of(title: str, timings: Sequence[Timing], base: str, unit: str, notes: Sequence[str] = ()) -> Section:
    """The table of a race: figures beside their floors, and throughputs against the contestant named `base`.

    `GFLOP/s of floor` is the least arithmetic that the work needs over the time that it took: what an implementation wastes
    does not count in its favour.
    """
    to = next(timing for timing in timings if timing.name == base)
    return Section(title, tuple(_row(timing, to, unit) for timing in timings), tuple(notes))


def _row(timing: Timing, base: Timing, unit: str) -> dict[str, Any]:
    ratios = timing.ratios(base)
    return {
        "contestant": timing.name,
        f"{unit}/s": timing.throughput,
        f"x {base.name}": median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        f"s/{unit}": timing.median_seconds / timing.work,
        "spread": timing.spread,
        f"floor tokens/{unit}": timing.floor.tokens / timing.work,
        f"floor GFLOP/{unit}": timing.floor.flops / timing.work / 1e9,
        "GFLOP/s of floor": timing.floor.flops / timing.median_seconds / 1e9,
        "rounds": len(timing.seconds),
    }


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be: at least `wanted`, or whatever it is where that is None."""

    statement: str
    wanted: float | None
    found: float
    ideal: float | None = None  # what the floors would allow


def goals_of(goals: Sequence[Goal]) -> Section:
    """Which goals are met."""
    return Section("goals", tuple({**asdict(goal), "met": _verdict(goal)} for goal in goals))


def _verdict(goal: Goal) -> str:
    if goal.wanted is None:
        return "told"
    return "yes" if goal.found >= goal.wanted else "no"


def document(name: str, settings: Mapping[str, Any], sections: Sequence[Section]) -> dict[str, Any]:
    """What is written as JSON: what was run, where, and every table."""
    return {
        "benchmark": name,
        "settings": dict(settings),
        "machine": machine(),
        "sections": [asdict(section) for section in sections],
    }


def machine() -> dict[str, Any]:
    """What figures depend on, without naming the machine itself."""
    found: dict[str, Any] = {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
    return found


def text_of(section: Section) -> str:
    """A table of aligned columns: words to the left, numbers to the right."""
    columns = list(section.rows[0]) if section.rows else []
    cells = [columns, *([_shown(row.get(column)) for column in columns] for row in section.rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(columns))]
    worded = [any(isinstance(row.get(column), str) for row in section.rows) for column in columns]
    lines = [
        "  ".join(
            cell.ljust(width) if words else cell.rjust(width)
            for cell, width, words in zip(line, widths, worded, strict=True)
        ).rstrip()
        for line in cells
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([section.title, lines[0], rule, *lines[1:], *(f"  {note}" for note in section.notes)])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return "" if value is None else str(value)

"""The report's figures as SVG text. The same figures give the same bytes.

Colours are names that the page's style gives a value to, so that one drawing can be read on a light and on a dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cycler import cycler
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from research.evaluation.comparison.results import (
    Comparison,
    Figure,
    MethodSummary,
    StudySummary,
)
from research.evaluation.comparison.tables import forgetting, named

_WIDE = 7.6  # inches
_NARROW = (4.6, 3.1)

# matplotlib takes colours only, so these stand for names until the drawing is text.
_INK, _MUTED, _GRID, _FIRST, _SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
_NAMES = {_INK: "ink", _MUTED: "muted", _GRID: "grid", _FIRST: "first", _SECOND: "second"}

_STYLE: Mapping[str, object] = {
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "lethe",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=[_INK]),
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.facecolor": "none",
    "figure.constrained_layout.use": True,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_WHISKERS: Mapping[str, Any] = {"ecolor": _INK, "capsize": 3, "elinewidth": 1.2}


def auc_by_method(comparison: Comparison, summaries: Sequence[MethodSummary], published: Mapping[str, float]) -> str:
    """A dot and whiskers for each method, its seeds as small dots, and the paper's figure where there is one."""
    found = [(one.method, one.figures["auc"]) for one in summaries]
    with _drawing("auc", (_WIDE, 0.42 * len(found) + 1.1)) as (axes, svg):
        for row, (method, auc) in enumerate(found):
            seeds = [each.auc for each in comparison.measured if each.method == method]
            if auc is not None:
                axes.errorbar(auc.mean, row, xerr=_deviations([auc]), fmt="o", color=_FIRST, markersize=7, **_WHISKERS)
            axes.plot(seeds, [row + 0.24] * len(seeds), "o", color=_MUTED, markersize=2.6)
        there = [(published[method], row) for row, (method, _) in enumerate(found) if method in published]
        if there:
            axes.plot(
                *zip(*there, strict=True), "D", color=_SECOND, markersize=6, fillstyle="none", markeredgewidth=1.6
            )
        _method_axis(axes, [method for method, _ in found])
        axes.set_xlabel("AUC")
    return svg[0]


def forgetting_by_method(summaries: Sequence[MethodSummary]) -> str:
    """Seconds to forget one user and one sample, for each method that has adapters or coefficients to make again."""
    shown = [one for one in summaries if one.figures["forget_user_seconds"] or one.figures["forget_sample_seconds"]]
    with _drawing("forgetting", (_WIDE, 0.55 * len(shown) + 1.1)) as (axes, svg):
        for offset, what, colour in ((-0.2, "user", _FIRST), (0.2, "sample", _SECOND)):
            seconds = [one.figures[f"forget_{what}_seconds"] for one in shown]
            at = [row + offset for row in range(len(shown))]
            bars = axes.barh(
                at,
                _means(seconds),
                0.36,
                xerr=_deviations(seconds),
                color=colour,
                error_kw=_WHISKERS,
                label=f"one {what}",
            )
            axes.bar_label(bars, [forgetting(one, what) for one in shown], padding=5, fontsize=8.5)
        _method_axis(axes, [one.method for one in shown])
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds (in brackets: shards retrained)")
        _legend(axes)
    return svg[0]


def auc_bars(name: str, bars: Sequence[StudySummary]) -> str:
    """A bar and whiskers for each variant of a study; the axis begins near the lowest bar."""
    with _drawing(name, _NARROW) as (axes, svg):
        _upright(axes, range(len(bars)), [bar.auc for bar in bars], _FIRST, 0.6, ".4f")
        axes.set_xticks(range(len(bars)), [bar.variant for bar in bars])
        _auc_axis(axes, [bar.auc for bar in bars])
    return svg[0]


def seconds_bars(name: str, bars: Sequence[StudySummary]) -> str:
    """A bar and whiskers for each method; the axis begins at 0."""
    with _drawing(name, _NARROW) as (axes, svg):
        _upright(axes, range(len(bars)), [bar.seconds for bar in bars], _FIRST, 0.6, "#.3g")
        axes.set_xticks(range(len(bars)), [named(bar.variant) for bar in bars])
        axes.margins(y=0.12)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("seconds per 500 samples")
    return svg[0]


def auc_by_shard_size(name: str, bars: Sequence[StudySummary]) -> str:
    """Two bars for each shard size, of variants such as "512 D" and "512 ND"."""
    figures = {tuple(bar.variant.split(" ")): bar.auc for bar in bars}
    sizes = sorted({size for size, _ in figures}, key=int, reverse=True)
    with _drawing(name, _NARROW) as (axes, svg):
        for offset, level, colour in ((-0.2, "D", _FIRST), (0.2, "ND", _SECOND)):
            at = [place + offset for place in range(len(sizes))]
            _upright(axes, at, [figures.get((size, level)) for size in sizes], colour, 0.38, ".3f", f"level {level}")
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_xlabel("samples per shard")
        _legend(axes)
        _auc_axis(axes, [bar.auc for bar in bars])
    return svg[0]


def bars_by_method(name: str, figures: Mapping[str, float], label: str) -> str:
    """A bar for each method; the axis begins at 0."""
    with _drawing(name, (_WIDE, 0.42 * len(figures) + 1.1)) as (axes, svg):
        bars = axes.barh(range(len(figures)), list(figures.values()), 0.6, color=_FIRST)
        axes.bar_label(bars, [f"{value:.4f}" for value in figures.values()], padding=4, fontsize=8.5)
        _method_axis(axes, list(figures))
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
    return svg[0]


def intervals_by_method(name: str, intervals: Mapping[str, tuple[float, float, float]], label: str) -> str:
    """A dot and whiskers for each method, of a mean and the two ends of its interval; a line stands at 0."""
    with _drawing(name, (_WIDE, 0.42 * len(intervals) + 1.1)) as (axes, svg):
        for row, (mean, low, high) in enumerate(intervals.values()):
            axes.errorbar(
                mean, row, xerr=[[mean - low], [high - mean]], fmt="o", color=_FIRST, markersize=7, **_WHISKERS
            )
        axes.axvline(0, color=_MUTED, linewidth=1)
        _method_axis(axes, list(intervals))
        axes.set_xlabel(label)
    return svg[0]


def lines_by_group(name: str, groups: Sequence[str], lines: Mapping[str, Sequence[float | None]], label: str) -> str:
    """A line for each method over the groups, with its name beside its end; the first method's stands out."""
    with _drawing(name, (_WIDE, 3.8)) as (axes, svg):
        ends: dict[str, tuple[int, float]] = {}
        for place, (method, values) in enumerate(lines.items()):
            known = [(at, value) for at, value in enumerate(values) if value is not None]
            color = _SECOND if place == 0 else _MUTED
            axes.plot(*zip(*known, strict=True), "o-", color=color, markersize=4, linewidth=2 if place == 0 else 1)
            ends[method] = known[-1]
        highest = max(value for values in lines.values() for value in values if value is not None) or 1.0
        for (method, end), height in zip(
            ends.items(), _apart([y for _, y in ends.values()], 0.06 * highest), strict=True
        ):
            axes.annotate(
                named(method),
                end,
                (len(groups) - 0.85, height),
                va="center",
                fontsize=8,
                arrowprops={"arrowstyle": "-", "color": _GRID, "linewidth": 0.8},
            )
        axes.set_xticks(range(len(groups)), groups)
        axes.set_xlim(-0.1, len(groups) - 0.1)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
    return svg[0]


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved up as little as makes them `gap` apart, from the lowest on."""
    moved, least = list(heights), -gap
    for place in sorted(range(len(heights)), key=lambda n: heights[n]):
        moved[place] = least = max(heights[place], least + gap)
    return moved


@contextmanager
def _drawing(name: str, inches: tuple[float, float]) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on, and a list that holds the finished SVG text afterwards."""
    finished: list[str] = []
    with style.context(["default", dict(_STYLE)]):  # nobody's own settings change the report
        drawing = Drawing(figsize=inches)
        yield drawing.add_subplot(), finished
        out = io.StringIO()
        drawing.savefig(out, format="svg", metadata=_NO_METADATA)
    finished.append(_inline(name, out.getvalue()))


def _inline(name: str, svg: str) -> str:
    """The `<svg>` element alone, coloured by names, its ids unlike those of the page's other drawings."""
    element = svg[svg.index("<svg") :]
    for colour, meaning in _NAMES.items():
        element = element.replace(colour, f"var(--{meaning})")
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", element)


def _method_axis(axes: Axes, methods: Sequence[str]) -> None:
    axes.set_yticks(range(len(methods)), [named(method) for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)  # first method on top
    axes.grid(axis="y", visible=False)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)  # above, where no bar is


def _upright(
    axes: Axes,
    at: Sequence[float] | range,
    figures: Sequence[Figure | None],
    colour: str,
    width: float,
    form: str,
    label: str | None = None,
) -> None:
    bars = axes.bar(
        at, _means(figures), width, yerr=_deviations(figures), color=colour, error_kw=_WHISKERS, label=label
    )
    axes.bar_label(bars, ["" if one is None else f"{one.mean:{form}}" for one in figures], padding=3, fontsize=8.5)
    axes.grid(axis="x", visible=False)


def _auc_axis(axes: Axes, figures: Sequence[Figure | None]) -> None:
    there = [one for one in figures if one is not None]
    if there:
        lowest, highest = min(one.mean - one.sd for one in there), max(one.mean + one.sd for one in there)
        room = max(highest - lowest, 0.004)
        axes.set_ylim(max(0.0, lowest - 0.6 * room), min(1.0, highest + 0.25 * room))
    axes.set_ylabel("AUC")


def _means(figures: Sequence[Figure | None]) -> list[float]:
    return [0.0 if one is None else one.mean for one in figures]


def _deviations(figures: Sequence[Figure | None]) -> list[float] | None:
    """None, and so no whiskers, where one seed each says nothing of the spread."""
    if not any(one is not None and one.seeds > 1 for one in figures):
        return None
    return [0.0 if one is None else one.sd for one in figures]

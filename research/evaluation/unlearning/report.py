"""A comparison of unlearning as one HTML page that needs nothing else. The same figures and command give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from research.evaluation.comparison import charts
from research.evaluation.comparison.report import Plot, page, plot
from research.evaluation.comparison.tables import UNKNOWN
from research.evaluation.unlearning import published, tables
from research.evaluation.unlearning.methods import RETRAIN
from research.evaluation.unlearning.results import (
    Drift,
    UnlearningComparison,
    UnlearningSummary,
    summaries,
)

TITLES = {"movielens-1m": "MovieLens-1M", "movielens-100k": "MovieLens-100K", "goodreads": "goodbooks-10k"}
_TEMPLATE = Path(__file__).with_name("report.html")


def render(found: UnlearningComparison, command: str) -> str:
    """The page: tables, figures, and what one must know to read them.

    Args:
        command: that made the comparison, as a reader would type it.
    """
    return page(
        _TEMPLATE,
        title=TITLES.get(found.dataset, found.dataset),
        found=found,
        command=command,
        quality=tables.quality(found),
        cost=tables.cost(found),
        attacks=tables.attacks(found),
        drift=tables.drift(found),
        plots=[*_plots(summaries(found)), *_drift_plots(found.stream)],
        paper_model=published.MODEL,
        paper_knows=bool(published.published_rows(found.dataset)),
        unknown=UNKNOWN,
    )


_AUC = "Mean over the seeds, on the test samples."
_JSD = (
    "Jensen-Shannon divergence between the two answers of each method and of Retrain, mean over the forgotten samples; of "
    "Lethe and of its own clean build."
)
_SECONDS = "Wall time of forgetting, mean over the seeds."


def _plots(rows: Sequence[UnlearningSummary]) -> list[Plot]:
    return [
        plot("AUC", _AUC, charts.bars_by_method("auc", _means(rows, "auc", 1), "AUC")),
        plot("Distance on what is forgotten", _JSD, charts.bars_by_method("jsd", _means(rows, "jsd", 100), "JSD, %")),
        plot("Time", _SECONDS, charts.bars_by_method("s", _means(rows, "all_in_seconds", 1), "seconds, all in")),
    ]


def _means(rows: Sequence[UnlearningSummary], name: str, scale: float) -> dict[str, float]:
    there = ((tables.DISPLAYED[one.method], one.figures[name]) for one in rows)
    return {name: figure.mean * scale for name, figure in there if figure is not None}


def _drift_plots(stream: Sequence[Drift]) -> list[Plot]:
    checked = sorted({each.deletions for each in stream if each.jsd is not None})
    if not checked:
        return []
    lines = {
        tables.DISPLAYED[name]: [_jsd(stream, name, deletions) for deletions in checked]
        for name in dict.fromkeys(each.method for each in stream if each.method != RETRAIN)
    }
    svg = charts.lines_by_group("drift", [str(number) for number in checked], lines, "JSD, %")
    caption = (
        "Distance on the samples of everybody forgotten so far after so many deletions of one person each: to a model "
        "retrained without them; of Lethe to a clean build."
    )
    return [plot("Drift over a stream of deletions", caption, svg)]


def _jsd(stream: Sequence[Drift], name: str, deletions: int) -> float | None:
    found = (each.jsd for each in stream if (each.method, each.deletions) == (name, deletions))
    jsd = next(found, None)
    return None if jsd is None else jsd * 100

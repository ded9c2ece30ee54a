"""A comparison as one HTML page that needs nothing else: styles and drawings are in it, and it loads nothing.

The same comparison and command give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import markupsafe

from research.evaluation.comparison import charts, published, tables
from research.evaluation.comparison.results import (
    REFERENCE,
    Comparison,
    MethodSummary,
    StudySummary,
    study_summary,
    summary,
)
from research.evaluation.comparison.splits import VALIDATION_RUN

TITLES = {"movielens-100k": "MovieLens-100K", "bookcrossing": "Book-Crossing"}
_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True, slots=True)
class Plot:
    """One drawing with what is said above and under it."""

    title: str
    caption: str
    svg: markupsafe.Markup


@dataclass(frozen=True, slots=True)
class _Study:
    title: str
    caption: str
    draw: Callable[[str, Sequence[StudySummary]], str]


_CUT = "The axis does not begin at 0. Whiskers: ± one standard deviation over the seeds."
_STUDIES: Mapping[str, _Study] = {
    "inference_time": _Study(
        "Inference time (the paper's fig. 3b)",
        "Seconds to score 500 samples on this machine. SISA runs every adapter on every sample; APA blends the adapters "
        "in one pass. Whiskers: ± one standard deviation over the seeds.",
        charts.seconds_bars,
    ),
    "partition": _Study(
        "Partition (the paper's fig. 4)",
        "AUC by how the training samples were divided, everywhere with adaptive weights at level ND: semantic is the "
        f"paper's Algorithm 1, user is RecEraser's UBP, bekm is GraphEraser's balanced k-means. {_CUT}",
        charts.auc_bars,
    ),
    "weights": _Study(
        "Weights (the paper's fig. 5)",
        "AUC by how the adapters are weighed, on the semantic partition at level ND: adaptive is eqs. 7 and 8, best "
        "is the one adapter with the least error on the neighbors, semantic weighs by likeness to the shards' centers. "
        f"{_CUT}",
        charts.auc_bars,
    ),
    "shard_size": _Study(
        "Shard size (the paper's fig. 6)",
        f"AUC by the largest number of samples in a shard, blended at level D (eq. 5) or ND (eq. 6). {_CUT}",
        charts.auc_by_shard_size,
    ),
    "routing": _Study(
        "What neighbors are found by (not in the paper)",
        "AUC when a sample's neighbors are found by its context, as they are served (all candidates of a request share their "
        f"weights), or by its whole prompt; semantic partition, adaptive weights, level ND. {_CUT}",
        charts.auc_bars,
    ),
}


def render(comparison: Comparison, command: str) -> str:
    """The page: tables, figures with captions, and what one must know to read them.

    Args:
        command: that made the comparison, as a reader would type it.
    """
    summaries = summary(comparison)
    return page(
        _TEMPLATE,
        title=_title(comparison.dataset),
        comparison=comparison,
        command=command,
        quality=tables.quality(comparison),
        cost=tables.cost(comparison),
        plots=[_auc_plot(comparison, summaries), *_forgetting_plot(comparison, summaries)],
        studies=_study_plots(comparison),
        paper_model=published.MODEL,
        paper_knows=_paper_knows(comparison),
        unknown=tables.UNKNOWN,
        scored="scored validation" if comparison.is_validation_run else "test",
        samples=_samples(comparison.split),
    )


def page(template: Path, **values: object) -> str:
    """A page from a template, which may use the macros that stand beside this file."""
    places = jinja2.FileSystemLoader([template.parent, _TEMPLATE.parent])
    environment = jinja2.Environment(loader=places, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(template.name).render(**values)


def plot(title: str, caption: str, svg: str) -> Plot:
    """A drawing of `charts`, ready to be put into a page."""
    # matplotlib escapes what it writes; marked so, because the page escapes all that is not.
    return Plot(title, caption, markupsafe.Markup(svg))


def _title(dataset: str) -> str:
    name = dataset.removesuffix(VALIDATION_RUN)
    return TITLES.get(name, name) + dataset[len(name) :]


def _samples(counts: Mapping[str, int]) -> str:
    drawn = f"{counts['training']:,} training, drawn from {counts['pool']:,}"
    return "; ".join([drawn, *(f"{n:,} {part}" for part, n in counts.items() if part not in ("training", "pool"))])


def _paper_knows(comparison: Comparison) -> bool:
    return bool(published.published_auc(comparison.dataset))


def _auc_plot(comparison: Comparison, summaries: Sequence[MethodSummary]) -> Plot:
    known = published.published_auc(comparison.dataset)
    theirs = f" Hollow diamonds: the paper's figures on {published.MODEL}." if known else ""
    caption = (
        "Large dots: mean AUC over the seeds, with ± one standard deviation. Small dots below: the single seeds."
        f"{theirs} The axis does not begin at 0."
    )
    return plot("AUC by method", caption, charts.auc_by_method(comparison, summaries, known))


def _forgetting_plot(comparison: Comparison, summaries: Sequence[MethodSummary]) -> list[Plot]:
    if not any(one.figures["forget_user_seconds"] or one.figures["forget_sample_seconds"] for one in summaries):
        return []
    caption = (
        "Wall time to make again all that had seen one random user or one random sample, "
        f"the same for every method of a seed; in brackets the shards retrained."
        f"{_speedup(summaries) if _paper_knows(comparison) else ''}"
    )
    return [plot("Forgetting by method", caption, charts.forgetting_by_method(summaries))]


def _speedup(summaries: Sequence[MethodSummary]) -> str:
    """How much faster than retraining a sample is forgotten, here and in the paper; empty where it was not measured."""
    seconds = {one.method: one.figures["forget_sample_seconds"] for one in summaries}
    whole, part = seconds.get(REFERENCE), seconds.get("apa-nd")
    if whole is None or part is None or not part.mean:
        return ""
    return (
        f" A sample is forgotten {whole.mean / part.mean:.2f} times faster by APA (ND) than by retraining; the paper "
        f"reports {published.SPEEDUP} times for {published.SPEEDUP_SHARDS} shards on {published.MODEL}."
    )


def _study_plots(comparison: Comparison) -> list[Plot]:
    found = study_summary(comparison)
    bars = {name: [bar for bar in found if bar.study == name] for name in _STUDIES}
    return [
        plot(study.title, study.caption, study.draw(name, bars[name])) for name, study in _STUDIES.items() if bars[name]
    ]

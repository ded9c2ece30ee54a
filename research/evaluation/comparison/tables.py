"""A comparison as rows of text, for a terminal and for the report alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from research.evaluation.comparison.published import MODEL, published_auc
from research.evaluation.comparison.results import (
    REFERENCE,
    Comparison,
    Figure,
    MethodSummary,
    study_summary,
    summary,
)

METHODS = {
    "retraining": "Retraining",
    "sisa": "SISA",
    "receraser": "RecEraser (UBP)",
    "grapheraser": "GraphEraser (BEKM)",
    "apa-d": "APA (D)",
    "apa-nd": "APA (ND)",
    "lethe": "Lethe",
    "like-share": "like-share",
    "logistic": "logistic regression",
}
UNKNOWN = "–"

Cell = Callable[[MethodSummary], str]


@dataclass(frozen=True, slots=True)
class Rows:
    """One table: every row has as many cells as there are columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def quality(comparison: Comparison) -> Rows:
    """How good the answers are; the paper's figures stand beside ours where there are any."""
    cells: dict[str, Cell] = {
        "AUC": lambda one: spread(one.figures["auc"]),
        "Δ to retraining": lambda one: UNKNOWN if one.method == REFERENCE else spread(one.delta_auc, "+.4f"),
        "single adapter AUC": lambda one: spread(one.figures["single_auc"]),
        "accuracy": lambda one: spread(one.figures["accuracy"], sd=False),
        "log loss": lambda one: spread(one.figures["log_loss"], sd=False),
        "UAUC": lambda one: spread(one.figures["uauc"], sd=False),
    }
    return _table({**cells, **_published_cells(comparison.dataset)}, summary(comparison))


def cost(comparison: Comparison) -> Rows:
    """What making, forgetting and scoring take."""
    cells: dict[str, Cell] = {
        "shards": lambda one: _count(one.figures["shards"]),
        "build s": lambda one: _seconds(one.figures["build_seconds"]),
        "forget a user s (shards)": lambda one: forgetting(one, "user"),
        "forget a sample s (shards)": lambda one: forgetting(one, "sample"),
        "scoring s / 500": lambda one: _seconds(one.figures["scoring_seconds_per_500"]),
        "trainable parameters": lambda one: _count(one.figures["trainable_parameters"]),
    }
    return _table(cells, summary(comparison))


def studies(comparison: Comparison) -> Rows:
    """The studies, one bar or dot a row."""
    rows = ((bar.study, bar.variant, spread(bar.auc), _seconds(bar.seconds)) for bar in study_summary(comparison))
    return Rows(("study", "variant", "AUC", "s / 500"), tuple(rows))


def forgetting(one: MethodSummary, what: str) -> str:
    """Seconds and shards of forgetting one `user` or one `sample`, as "12.3 (1)"."""
    seconds = one.figures[f"forget_{what}_seconds"]
    return UNKNOWN if seconds is None else f"{_seconds(seconds)}{_in_brackets(one.figures[f'forget_{what}_shards'])}"


def spread(figure: Figure | None, form: str = ".4f", sd: bool = True) -> str:
    """Mean ± standard deviation over the seeds; of one seed no deviation is known, so none is named."""
    if figure is None:
        return UNKNOWN
    mean = f"{figure.mean:{form}}".replace("-", "−")
    return f"{mean} ± {figure.sd:.4f}" if sd and figure.seeds > 1 else mean


def named(method: str) -> str:
    """A method's name for people; one without is called what the command line calls it."""
    return METHODS.get(method, method)


def _published_cells(dataset: str) -> dict[str, Cell]:
    published = published_auc(dataset)
    if not published:
        return {}
    return {
        f"paper's AUC, {MODEL}": lambda one: _published(published.get(one.method), ".4f"),
        "paper's Δ": lambda one: _published(
            published[one.method] - published[REFERENCE]
            if one.method in published and one.method != REFERENCE
            else None,
            "+.4f",
        ),
    }


def _published(value: float | None, form: str) -> str:
    return spread(None if value is None else Figure(value, 0.0, 1), form)


def _seconds(figure: Figure | None) -> str:
    if figure is None:
        return UNKNOWN
    if figure.mean < 0.01:
        return "< 0.01"
    return f"{figure.mean:,.0f}" if figure.mean >= 100 else f"{figure.mean:#.3g}".rstrip(".")


def _count(figure: Figure | None) -> str:
    """Whole numbers as they are; a mean that is none with one decimal."""
    return UNKNOWN if figure is None else f"{figure.mean:,.1f}".removesuffix(".0")


def _in_brackets(figure: Figure | None) -> str:
    return "" if figure is None else f" ({_count(figure)})"


def _table(cells: dict[str, Cell], summaries: Iterable[MethodSummary]) -> Rows:
    rows = ((named(one.method), *(cell(one) for cell in cells.values())) for one in summaries)
    return Rows(("method", *cells), tuple(rows))

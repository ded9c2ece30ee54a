"""A comparison of unlearning as rows of text, for a terminal and for the report alike. Shares and distances are in percent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from research.evaluation.comparison.results import Figure
from research.evaluation.comparison.tables import UNKNOWN, Rows, spread
from research.evaluation.unlearning.published import MODEL, PublishedRow, published_rows
from research.evaluation.unlearning.results import (
    Drift,
    UnlearningComparison,
    UnlearningSummary,
    summaries,
)

DISPLAYED = {
    "original": "Original",
    "retrain": "Retrain",
    "sisa": "SISA",
    "receraser": "RecEraser (UBP)",
    "negkl": "NegKL",
    "neggrad": "NegGrad",
    "bad-t": "Bad-T",
    "e2urec": "E2URec",
    "e2urec-without-fgt": "E2URec without L_FGT",
    "e2urec-without-rem": "E2URec without L_REM",
    "sisa-lora": "SISA, LoRA",
    "receraser-lora": "RecEraser (UBP), LoRA",
    "negkl-lora": "NegKL, LoRA",
    "neggrad-lora": "NegGrad, LoRA",
    "bad-t-lora": "Bad-T, LoRA",
    "bad-t-flipped": "Bad-T, labels flipped",
    "e2urec-full": "E2URec, all parameters",
    "lethe": "Lethe (exact)",
}

_PERCENT = 100.0

Cell = Callable[[UnlearningSummary], str]


def all_of(found: UnlearningComparison) -> dict[str, Rows]:
    """Every table by its title."""
    return {
        "quality, and distance to Retrain on what is forgotten": quality(found),
        "cost": cost(found),
        "what can still be found of them": attacks(found),
        "stream of single deletions": drift(found),
    }


def quality(found: UnlearningComparison) -> Rows:
    """Test quality and distances, with the paper's figures beside ours where there are any."""
    paper = published_rows(found.dataset)
    cells: dict[str, Cell] = {
        "AUC": lambda one: spread(one.figures["auc"]),
        "ACC %": lambda one: _percent(one.figures["accuracy"], ".1f"),
        "log loss": lambda one: spread(one.figures["log_loss"]),
        "JSD %": lambda one: _percent(one.figures["jsd"], ".3f"),
        "JSD % as released": lambda one: _percent(one.figures["symmetric"], ".3f"),
        "L2 %": lambda one: _percent(one.figures["l2"], ".2f"),
        "clean build": lambda one: _identical(one.identical_to_clean_build),
    }
    if paper:
        cells |= {
            f"paper's AUC, {MODEL}": lambda one: _of_paper(paper.get(one.method), "auc", ".4f"),
            "paper's JSD %": lambda one: _of_paper(paper.get(one.method), "jsd", ".2f"),
            "paper's L2 %": lambda one: _of_paper(paper.get(one.method), "l2", ".2f"),
        }
    return _table(cells, summaries(found))


def cost(found: UnlearningComparison) -> Rows:
    """Seconds as the paper counts them and all in, and trained parameters."""
    paper = published_rows(found.dataset)
    cells: dict[str, Cell] = {
        "trains": lambda one: one.part,
        "parameters": lambda one: _number(one.figures["parameters"], ",.0f"),
        "s, as the paper counts": lambda one: _number(one.figures["paper_seconds"], ".1f"),
        "s, all in": lambda one: _number(one.figures["all_in_seconds"], ".1f"),
    }
    if paper:
        cells |= {
            f"paper's s, {MODEL}": lambda one: _of_paper(paper.get(one.method), "seconds", ",.0f"),
            "paper's parameters": lambda one: _of_paper(paper.get(one.method), "parameters", ".1e"),
        }
    return _table(cells, summaries(found))


def attacks(found: UnlearningComparison) -> Rows:
    """Membership inference by the loss, and steps until D_f is known again; as they are and after rounding to int8."""
    cells: dict[str, Cell] = {
        "membership AUC": lambda one: _number(one.figures["membership_auc"], ".3f"),
        "relearning steps": lambda one: _number(one.figures["relearning_steps"], ".0f"),
        "int8: AUC": lambda one: _number(one.figures["int8_auc"], ".4f"),
        "int8: JSD %": lambda one: _percent(one.figures["int8_jsd"], ".3f"),
        "int8: membership AUC": lambda one: _number(one.figures["int8_membership_auc"], ".3f"),
        "int8: relearning steps": lambda one: _number(one.figures["int8_relearning_steps"], ".0f"),
    }
    return _table(cells, summaries(found))


def drift(found: UnlearningComparison) -> Rows:
    """The stream: a row for each method where distances were measured; seconds are the mean of the deletions so far."""
    rows = []
    for name in dict.fromkeys(each.method for each in found.stream):
        own = [each for each in found.stream if each.method == name]
        rows += [_drift_row(own[: place + 1]) for place, each in enumerate(own) if each.jsd is not None]
    columns = ("method", "deletions", "AUC", "JSD %", "L2 %", "clean build", "s, as the paper counts", "s, all in")
    return Rows(columns, tuple(rows))


def _drift_row(so_far: Sequence[Drift]) -> tuple[str, ...]:
    last, count = so_far[-1], len(so_far)
    return (
        DISPLAYED[last.method],
        str(last.deletions),
        f"{last.auc:.4f}",
        UNKNOWN if last.jsd is None else f"{last.jsd * _PERCENT:.3f}",
        UNKNOWN if last.l2 is None else f"{last.l2 * _PERCENT:.2f}",
        _identical(last.identical_to_clean_build),
        f"{sum(each.paper_seconds for each in so_far) / count:.1f}",
        f"{sum(each.all_in_seconds for each in so_far) / count:.1f}",
    )


def _table(cells: Mapping[str, Cell], found: Sequence[UnlearningSummary]) -> Rows:
    rows = tuple((DISPLAYED[one.method], *(cell(one) for cell in cells.values())) for one in found)
    return Rows(("method", *cells), rows)


def _percent(figure: Figure | None, form: str) -> str:
    if figure is None:
        return UNKNOWN
    mean = f"{figure.mean * _PERCENT:{form}}"
    return f"{mean} ± {figure.sd * _PERCENT:{form}}" if figure.seeds > 1 else mean


def _number(figure: Figure | None, form: str) -> str:
    return UNKNOWN if figure is None else f"{figure.mean:{form}}"


def _of_paper(row: PublishedRow | None, name: str, form: str) -> str:
    value = None if row is None else getattr(row, name)
    return UNKNOWN if value is None else f"{value:{form}}"


def _identical(same: bool | None) -> str:
    return UNKNOWN if same is None else ("the same bytes" if same else "differs")

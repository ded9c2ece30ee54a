"""A ranking as rows of text, for a terminal and for the report alike."""

from __future__ import annotations

import math
from collections.abc import Iterable

from research.evaluation.comparison.tables import UNKNOWN, Rows
from research.evaluation.ranking.intervals import Interval
from research.evaluation.ranking.results import (
    ADAPTERS,
    MEMORIES,
    STORED_BYTES,
    MethodRow,
    Outcome,
    Ranking,
)

_QUALITY = {
    "NDCG@10": "ndcg@10",
    "NDCG@20": "ndcg@20",
    "HR@10": "hr@10",
    "HR@20": "hr@20",
    "MRR@10": "mrr@10",
    "MRR@20": "mrr@20",
    "recall@10": "recall@10",
    "recall@20": "recall@20",
    "recall@100": "recall@100",
}
_HOLDS = (ADAPTERS, MEMORIES, STORED_BYTES)
_BREADTH = {"coverage@10": "coverage@10", "novelty@10, bits": "novelty@10", "tail recall@20": "tail_recall@20"}


def quality(ranking: Ranking) -> Rows:
    """How good the lists are."""
    return _figures(ranking.rows, _QUALITY)


def breadth(ranking: Ranking) -> Rows:
    """What of the catalog is shown."""
    return _figures(ranking.rows, _BREADTH)


def cost(ranking: Ranking) -> Rows:
    """What learning, answering and forgetting take, and what was chosen for each method."""
    columns = ("method", "build s", "answer ms", "forget a person s", *_HOLDS, "chosen on validation")
    rows = (
        (
            row.method,
            _seconds(row.build_seconds),
            f"{1000 * row.answer_seconds:.3g}",
            _seconds(row.forget_seconds),
            *(_count(row.holds.get(name)) for name in _HOLDS),
            ", ".join(f"{name} {value:g}" for name, value in row.options.items()) or UNKNOWN,
        )
        for row in ranking.rows
    )
    return Rows(columns, tuple(rows))


def outcomes(found: Iterable[Outcome]) -> Rows:
    """One part of a ranking, one method of one group a row."""
    columns = ("group", "method", "asked", "NDCG@10", "HR@10", "lead of lethe in NDCG@10 (95%)")
    rows = (
        (one.group, one.method, f"{one.asked:,}", _figure(one.ndcg), _figure(one.hr), _interval(one.lead))
        for one in found
    )
    return Rows(columns, tuple(rows))


def _figures(rows: Iterable[MethodRow], columns: dict[str, str]) -> Rows:
    shown = ((row.method, *(_figure(row.figures[name]) for name in columns.values())) for row in rows)
    return Rows(("method", *columns), tuple(shown))


def _figure(value: float | None) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.4f}"


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _interval(lead: Interval | None) -> str:
    if lead is None:
        return UNKNOWN
    return f"{lead.mean:+.4f} ({lead.low:+.4f} to {lead.high:+.4f})".replace("-", "−")


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}"

"""A ranking as one HTML page that needs nothing else. The same ranking gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from research.evaluation.comparison import charts
from research.evaluation.comparison.report import (
    TITLES,
    Plot,
    page,
    plot,
)
from research.evaluation.ranking import tables
from research.evaluation.ranking.lethe import BOTH
from research.evaluation.ranking.results import (
    BY_HISTORY,
    BY_LIKES,
    EVERYBODY,
    MASKED,
    NEW_ITEMS,
    STRANGERS,
    Outcome,
    Ranking,
)

_TEMPLATE = Path(__file__).with_name("report.html")

_NOTES = {
    EVERYBODY: "",
    BY_HISTORY: "Tested people by their number of training rows.",
    BY_LIKES: "What was held out, by how many people like it in the training rows: of each group only its items are relevant.",
    STRANGERS: "A fifth of all people, of whom the ledger holds nothing, asked for by the newest of their first five rows; "
    "relevant is what they liked next, the same for every length.",
    MASKED: "So many people forgotten and nothing built again: what has seen them is masked. The same people are asked each "
    "time. The lead is that of no deletion.",
    NEW_ITEMS: "A fifth of the catalog whose rows are all out of the ledger, ranked among themselves; relevant is what "
    "somebody liked of them later. All draws together; who is tested in several draws counts several times.",
}


def render(ranking: Ranking) -> str:
    """The page: tables, figures with captions, and what one must know to read them."""
    return page(
        _TEMPLATE,
        title=TITLES.get(ranking.dataset, ranking.dataset),
        ranking=ranking,
        quality=tables.quality(ranking),
        breadth=tables.breadth(ranking),
        cost=tables.cost(ranking),
        plots=_plots(ranking),
        parts=[(part, tables.outcomes(ranking.part(part)), note) for part, note in _shown(ranking)],
    )


def _shown(ranking: Ranking) -> list[tuple[str, str]]:
    return [(part, note) for part, note in _NOTES.items() if ranking.part(part)]


def _plots(ranking: Ranking) -> list[Plot]:
    everybody = {row.method: row.figures["ndcg@10"] for row in ranking.rows}
    drawn = [
        plot("NDCG@10 by method", "Mean over all tested people.", charts.bars_by_method("ndcg", everybody, "NDCG@10"))
    ]
    leads = {one.method: (one.lead.mean, one.lead.low, one.lead.high) for one in ranking.part(EVERYBODY) if one.lead}
    if leads:
        caption = (
            "Mean difference over the same people, with its paired 95% bootstrap interval. Right of 0: Lethe is better."
        )
        drawing = charts.intervals_by_method("lead", leads, "lead of lethe in NDCG@10")
        drawn.append(plot("How far Lethe is ahead", caption, drawing))
    for name, part in (("history", BY_HISTORY), ("likes", BY_LIKES), ("strangers", STRANGERS)):
        found = ranking.part(part)
        if len({one.group for one in found}) > 1:
            caption = f"{_NOTES[part]} Methods by name at the end of their lines."
            drawn.append(plot(f"By {part}", caption, _lines(name, found)))
    return drawn


def _lines(name: str, found: Sequence[Outcome]) -> str:
    groups = list(dict.fromkeys(one.group for one in found))
    methods = sorted(dict.fromkeys(one.method for one in found), key=lambda method: method != BOTH)
    values = {(one.method, one.group): one.ndcg for one in found}
    lines = {method: [values.get((method, group)) for group in groups] for method in methods}
    return charts.lines_by_group(name, groups, lines, "NDCG@10")

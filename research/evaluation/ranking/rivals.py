"""Peers in a ranking: each tuned on the validation part of the training rows, then learned, asked, and made to forget."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from research.evaluation.ranking.contest import Answered, Contest, timed_each
from research.evaluation.ranking.knowledge import Knowledge, facts_of
from research.evaluation.ranking.metrics import LENGTH, figures
from research.evaluation.ranking.peers.peer import (
    FADING,
    Model,
    Options,
    Peer,
    best,
)
from research.evaluation.ranking.protocols import HeldOut
from service.building.progress import Progress

_CHOSEN_BY = "ndcg@10"
_ASKED_AT_MOST = 2_000  # people, in tuning


def may_enter(peer: Peer, knowledge: Knowledge) -> bool:
    """Whether a peer means anything on this data, and fits into memory."""
    fits = peer.most_items is None or knowledge.items <= peer.most_items
    return fits and (knowledge.ordered or not peer.needs_order)


def tuned(contest: Contest, peer: Peer) -> dict[str, dict[str, float]]:
    """The best `fitting` and `asking` options by NDCG@10 where no test row is; of equals the first."""

    def choose() -> dict[str, Any]:
        asking = _asking(peer, contest.knowledge.ordered)
        if len(peer.fitting) * len(asking) == 1:
            return {"fitting": dict(peer.fitting[0]), "asking": dict(asking[0])}
        return _best_options(peer, asking, contest.split.for_tuning().drawn(_ASKED_AT_MOST), contest.progress)

    chosen: dict[str, dict[str, float]] = contest.notebook.recall("tuned", _inputs(contest, peer), choose)
    return chosen


def answered(contest: Contest, peer: Peer) -> Answered:
    """A tuned peer's lists for everybody tested."""
    options = tuned(contest, peer)

    def ask() -> dict[str, Any]:
        known = contest.knowledge
        model, build_seconds = _fitted(peer, known, options["fitting"])
        contest.progress.phase(f"{peer.name}: asking", len(contest.split.people))
        each = list(timed_each(contest.split.people, lambda user: _top(model, known, user, options), contest.progress))
        _, forget_seconds = _fitted(peer, known.without([contest.forgotten]), options["fitting"])
        return {
            "lists": [own for own, _ in each],
            "build_seconds": build_seconds,
            "answer_seconds": statistics.fmean(seconds for _, seconds in each),
            "forget_seconds": forget_seconds,
        }

    found = contest.notebook.recall("answered", {**_inputs(contest, peer), "options": options}, ask)
    return Answered(options={**options["fitting"], **options["asking"]}, **found)


def _inputs(contest: Contest, peer: Peer) -> dict[str, Any]:
    return {"split": contest.digest, "peer": peer.name, "code": contest.peers_code}


def _asking(peer: Peer, ordered: bool) -> list[dict[str, float]]:
    """What to vary when asking; where histories have no order, nothing fades."""
    ways = [{name: value for name, value in one.items() if ordered or name != FADING} for one in peer.asking]
    return [way for place, way in enumerate(ways) if way not in ways[:place]]


def _best_options(peer: Peer, ways: Sequence[Options], split: HeldOut, progress: Progress) -> dict[str, Any]:
    known = Knowledge.of(split)
    facts = facts_of(split, known)
    progress.phase(f"{peer.name}: tuning", len(peer.fitting) * len(ways))
    found: list[tuple[float, Options, Options]] = []
    for fitting in peer.fitting:
        model = peer.fit(known, fitting)
        for asking in ways:
            options = {"fitting": fitting, "asking": asking}
            lists = [_top(model, known, user, options) for user in split.people]
            found.append((figures(lists, facts)[_CHOSEN_BY], fitting, asking))
            progress.advance(1)
    _, fitting, asking = max(found, key=lambda one: one[0])
    return {"fitting": dict(fitting), "asking": dict(asking)}


def _fitted(peer: Peer, known: Knowledge, fitting: Options) -> tuple[Model, float]:
    began = time.perf_counter()
    return peer.fit(known, fitting), time.perf_counter() - began


def _top(model: Model, known: Knowledge, user: str, options: dict[str, Any]) -> list[int]:
    history = known.history(user)
    return best(model(history, options["asking"]), history.items, LENGTH)

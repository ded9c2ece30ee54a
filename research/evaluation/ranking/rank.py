"""The whole ranking: every method on one split, by groups, on new items and on strangers. It computes only what is missing."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from research.evaluation.ranking.contest import Answered, Contest
from research.evaluation.ranking.lethe import BOTH
from research.evaluation.ranking.masked import masked
from research.evaluation.ranking.metrics import figures
from research.evaluation.ranking.new_items import new_items
from research.evaluation.ranking.outcomes import outcomes
from research.evaluation.ranking.peers.peer import Peer
from research.evaluation.ranking.results import MethodRow, Outcome, Ranking
from research.evaluation.ranking.rivals import answered, may_enter
from research.evaluation.ranking.served import served
from research.evaluation.ranking.strangers import strangers


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked beside everybody's lists."""

    draws: int  # of new items
    strangers: bool
    masked: bool = False


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a reader must know to get the same figures."""

    variant: Mapping[str, Any]
    machine: Mapping[str, str]
    command: str


def rank(contest: Contest, peers: Sequence[Peer], wanted: Wanted, circumstances: Circumstances) -> Ranking:
    """Ask all methods; peers that mean nothing on this data, or would not fit into memory, are left out.

    Everything found is kept in the contest's notebook under the digest of its inputs, so that a run that was killed goes on
    where it stopped.

    Raises:
        LetheError, StoreFailure: what is finished by then is kept.
    """
    entering = [peer for peer in peers if may_enter(peer, contest.knowledge)]
    found = {peer.name: answered(contest, peer) for peer in entering} | served(contest)
    return Ranking(
        dataset=contest.ratings.dataset,
        protocol=contest.split.protocol,
        variant=dict(circumstances.variant),
        counts=_counts(contest),
        split=contest.digest,
        model=contest.workshop.frozen.tokenizer.digest,
        settings=json.loads(json.dumps(asdict(contest.workshop.config))),
        environment=dict(contest.workshop.environment),
        machine=dict(circumstances.machine),
        command=circumstances.command,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        rows=tuple(_row(contest, method, own) for method, own in found.items()),
        outcomes=tuple(_outcomes(contest, found, entering, wanted)),
    )


def _outcomes(
    contest: Contest, found: Mapping[str, Answered], peers: Sequence[Peer], wanted: Wanted
) -> Iterator[Outcome]:
    yield from outcomes({method: own.lists for method, own in found.items()}, contest.facts, BOTH)
    if wanted.strangers:
        yield from strangers(contest, peers)
    if wanted.masked:
        yield from masked(contest)
    if wanted.draws:
        yield from new_items(contest, wanted.draws)


def _row(contest: Contest, method: str, own: Answered) -> MethodRow:
    return MethodRow(
        method=method,
        figures=figures(own.lists, contest.facts),
        options=own.options,
        build_seconds=own.build_seconds,
        answer_seconds=own.answer_seconds,
        forget_seconds=own.forget_seconds,
        holds=own.holds,
    )


def _counts(contest: Contest) -> dict[str, int]:
    return {
        "items": len(contest.split.items),
        "training rows": len(contest.split.train),
        "people known": len(contest.knowledge.histories),
        "people tested": len(contest.split.test),
    }

"""What goes into scoring and what comes out of it. Values only: no tensors, no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from service.records import Item, ItemName, RatedItem
from service.scoring.filters import Conditions


class Payer(Protocol):
    """Whose request it is: `name` is whose turn it takes in the queue, and `charge` raises QuotaExceeded.

    `free_titles`: whether titles that no catalog knows may be among the candidates.
    """

    @property
    def name(self) -> str: ...

    @property
    def free_titles(self) -> bool: ...

    def charge(self, tokens: int) -> None: ...


class Nobody:
    """A payer for callers within the house, who are not counted."""

    name = ""
    free_titles = True

    def charge(self, tokens: int) -> None:
        """Nothing is charged."""


NOBODY = Nobody()


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One history and the items to score for it."""

    history: tuple[RatedItem, ...]
    candidates: tuple[Item, ...]
    fence: int | None = None  # of the ledger before the history was read; None: its context is not to be remembered


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A `ScoreRequest` as the frozen model's token ids."""

    context: tuple[int, ...]
    questions: tuple[tuple[int, ...], ...]  # one per candidate, in the request's order
    fence: int | None = None  # as in the `ScoreRequest`

    @property
    def tokens(self) -> int:
        """How many go through the layers: the context once, and every question."""
        return len(self.context) + sum(map(len, self.questions))


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to one request, as of one generation and one fence."""

    scores: tuple[float, ...]  # P(Yes) / (P(Yes) + P(No)), one per candidate, in the request's order
    weights: dict[str, float]  # adapter digest -> w_k; routing reads the context, so all candidates share them
    neighbors: tuple[str, ...]  # keys of the validation rows that decided the weights, nearest first
    generation: str
    fence: int
    degraded: bool  # no adapter may be used, so the frozen model answered alone
    revision: int = 0  # of the mask


class RankBy(StrEnum):
    """What decides the order of an answer."""

    SCORE = "score"  # P(like), as the language model and the adapters see it
    MODEL = "model"  # counts, content and score together


@dataclass(frozen=True, slots=True)
class Query:
    """What a caller asks. Either `user_id` or a history; each entry of it names an item by id or title.

    `opinions` is a history, oldest first, of names and whether each was liked. `rank_by` is None for the default: by the score
    where candidates are named, else by the whole model.
    """

    user_id: str | None
    opinions: tuple[tuple[ItemName, bool], ...]
    candidates: tuple[ItemName, ...] | None  # None: retrieve them from the catalog
    top_k: int
    rank_by: RankBy | None = None
    explain: bool = False
    strict: bool = False  # a user of whom nothing is held is refused; else they are a stranger, without a history
    exclude: tuple[ItemName, ...] = ()  # never in the answer
    conditions: Conditions = ()  # that items of the catalog must meet
    offset: int = 0  # items of the order that are left out at its beginning
    diversity: float = 0.0  # 0: the plain order; towards 1: unlike items one after another

    @property
    def names(self) -> tuple[ItemName, ...]:
        """Every item id or title in it."""
        return (*(name for name, _ in self.opinions), *(self.candidates or ()), *self.exclude)

    @property
    def ranked_by(self) -> RankBy:
        """What decides the order of the answer."""
        return self.rank_by or (RankBy.MODEL if self.candidates is None else RankBy.SCORE)


@dataclass(frozen=True, slots=True)
class Ranked:
    """One item of an answer. `rank` counts from 1; `item_id` is None for a title that no catalog knows.

    Only where an explanation was asked for: the parts of the value by which the model ranked it, and the items of the
    history that speak most for it.
    """

    item_id: str | None
    title: str
    score: float
    rank: int
    parts: Mapping[str, float] | None = None
    because: tuple[Item, ...] = ()
    names: tuple[ItemName, ...] = field(default=(), compare=False)  # by which the query named it among its candidates


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to one `Query`, best first."""

    generation: str
    fence: int
    degraded: bool
    items: tuple[Ranked, ...]
    weights: dict[str, float]
    neighbors: tuple[str, ...]
    ranked_by: RankBy
    memories: tuple[str, ...] = ()  # whose counts were summed
    item_model: bool = False  # whether it answered
    cold: bool = False  # nothing is held of the user who asked

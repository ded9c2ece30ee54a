"""Queries and rankings on the wire."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from service.entrypoints.http.filter_schemas import Filter
from service.entrypoints.http.paging import Cursor, cursor_of, ids_in
from service.entrypoints.http.schemas import WHOLE, Id, NamedItem, answer_config, body_config, name_of
from service.records import ById, ItemName
from service.scoring.requests import Query, RankBy, Ranked, Recommendation

MOST_EXCLUDED = 1_000
MOST_SKIPPED = 1_000

Names = Annotated[list[NamedItem], Field(max_length=50)]
TopK = Annotated[int, Field(ge=1, le=200), WHOLE]
Excluded = Annotated[
    list[NamedItem], Field(max_length=MOST_EXCLUDED, description="Items that must not be in the answer, by id or title")
]
Diversity = Annotated[
    float,
    Field(
        ge=0, le=1, description="0: the best items; towards 1: items unlike those before them (MMR over their texts)"
    ),
]


class Opinion(BaseModel):
    """An item, by its id or title, and whether it was liked."""

    model_config = body_config({"item": "Toy Story (1995)", "liked": True})

    item: NamedItem
    liked: bool = True


class History(BaseModel):
    """Item ids or titles, oldest first.

    `opinions` keeps the order in which likes and dislikes came; the shorter form, `liked` and `disliked`, counts dislikes as
    newer than all likes. An empty history is that of a stranger.
    """

    model_config = body_config(
        {"liked": ["Toy Story (1995)"], "disliked": ["Heat (1995)"]},
        {"opinions": [{"item": "Heat (1995)", "liked": False}, {"item": "Toy Story (1995)"}]},
        {},
    )

    liked: Names = []
    disliked: Names = []
    opinions: Annotated[list[Opinion], Field(max_length=100)] = []

    @model_validator(mode="after")
    def _one_form(self) -> History:
        if self.opinions and (self.liked or self.disliked):
            raise PydanticCustomError("one_form", "Give either opinions, or liked and disliked")
        return self

    def in_order(self) -> tuple[tuple[ItemName, bool], ...]:
        """Names and whether they were liked, oldest first."""
        stated = [(opinion.item, opinion.liked) for opinion in self.opinions]
        stated += [(item, True) for item in self.liked] + [(item, False) for item in self.disliked]
        return tuple((name_of(item), liked) for item, liked in stated)


class RecommendBody(BaseModel):
    """Exactly one of `user_id` and `history`. Without `candidates`, they are retrieved from the catalog.

    Titles need not be exact here: `the matrix` is `Matrix, The (1999)`, and of several items that say the same the one is meant
    that most people have met. An item that `candidates` names more than once, in whatever way, is answered once.

    `rank_by` decides the order: `model` (what people like together, content and the score; the default without `candidates`)
    or `score` (the default with them). Whichever it is, a title that no catalog knows stands behind the better half of the
    candidates that one knows.

    A user of whom nothing is held is answered as a stranger (`cold` in the answer), unless `strict` asks for a 404. `exclude`
    and `filter` count before candidates are retrieved, so that a narrow filter still fills `top_k`. `offset` leaves out the
    beginning of the order. `cursor`, empty at first and then that of the answer before, gives the next page without a repeat,
    whatever changed meanwhile.
    """

    model_config = body_config(
        {"user_id": "196", "top_k": 5},
        {"history": {"liked": ["Toy Story (1995)"]}, "candidates": ["Heat (1995)", "Babe (1995)"], "explain": True},
    )

    user_id: Id | None = None
    history: History | None = None
    candidates: Annotated[list[NamedItem], Field(min_length=1, max_length=200)] | None = None
    top_k: TopK = 10
    rank_by: Literal["score", "model"] | None = None
    explain: bool = False
    strict: bool = False
    exclude: Excluded = []
    filter: Filter | None = None
    offset: Annotated[int, Field(ge=0, le=MOST_SKIPPED), WHOLE] = 0
    cursor: Cursor | None = None
    diversity: Diversity = 0.0

    @model_validator(mode="after")
    def _one_subject(self) -> RecommendBody:
        if (self.user_id is None) == (self.history is None):
            raise PydanticCustomError("one_subject", "Give exactly one of user_id and history")
        if self.cursor is not None and (self.offset or self.candidates is not None):
            raise PydanticCustomError("one_paging", "A cursor pages through the catalog; give no offset, no candidates")
        return self

    def query(self) -> Query:
        history = self.history or History()
        return Query(
            user_id=self.user_id,
            opinions=history.in_order(),
            candidates=None if self.candidates is None else tuple(map(name_of, self.candidates)),
            top_k=self.top_k,
            rank_by=None if self.rank_by is None else RankBy(self.rank_by),
            explain=self.explain,
            strict=self.strict,
            exclude=(*map(name_of, self.exclude), *map(ById, self.shown_before())),
            conditions=() if self.filter is None else self.filter.conditions(),
            offset=self.offset,
            diversity=self.diversity,
        )

    def shown_before(self) -> tuple[str, ...]:
        """Ids of the items on the pages before."""
        return () if self.cursor is None else ids_in(self.cursor)

    def page(self, found: Recommendation, tells_cold: bool) -> RecommendAnswer:
        """The answer; with the cursor of the next page if this one was asked for by a cursor, and is full.

        `tells_cold`: whether the caller may know that nothing is held of the user.
        """
        answer = RecommendAnswer.of(found if tells_cold else replace(found, cold=False), self.explain)
        if self.cursor is None:
            return answer
        shown = (*self.shown_before(), *(item.item_id for item in found.items if item.item_id is not None))
        full = len(found.items) == self.top_k and len(shown) + self.top_k <= MOST_SKIPPED
        return RecommendAnswer(**answer.model_dump(exclude_unset=True), cursor=cursor_of(shown) if full else None)


class Because(BaseModel):
    """An item of the history that speaks for an item of the answer: people liked both."""

    model_config = answer_config({"item_id": "1", "title": "Toy Story (1995)"})

    item_id: str
    title: str


class RankedItem(BaseModel):
    """`score` is P(Yes) / (P(Yes) + P(No)), what the language model and the adapters expect: the chance of a like.

    With `explain`, for items of the catalog: `parts` (of the value that `rank_by: model` orders by, beside what the
    language model adds) and `because` (the items of the history that speak most for this one). `weights` are the answer's,
    until 1.0.
    """

    item_id: str | None
    title: str
    score: float
    rank: int
    # Until 1.0, for callers of before: all items of an answer have the same.
    weights: Annotated[dict[str, float] | None, Field(json_schema_extra={"deprecated": True})] = None
    parts: dict[str, float] | None = None
    because: list[Because] | None = None


class RecommendAnswer(BaseModel):
    """The served generation's ranking, as of `fence`. `degraded`: every adapter is masked, the frozen model answered alone.

    `recommendation_id` is random; an event that cites it is attributed to this answer (`POST /interactions`).
    Present with `explain`: `weights`, of each adapter by its digest, which the context decides and all candidates share;
    `neighbors`, the validation rows that decided them, nearest first (a row is known by a keyed hash, which tells nothing about
    any person to whoever does not hold the installation's secret; `neighbours` is the same, until 1.0); `memories`, the digests
    of the memories whose counts were summed; and `item_model`, whether it answered too: under any mask it does not.
    Present for a user of whom nothing is held: `cold`. Present where a `cursor` was given: the next page's, null where there is
    none.
    """

    model_config = answer_config(
        {
            "recommendation_id": "0d9c5f7e3b1a4c62a8f04e6d2b97c315",
            "generation": "g-5f1c",
            "fence": 3,
            "degraded": False,
            "ranked_by": "model",
            "items": [{"item_id": "34", "title": "Babe (1995)", "score": 0.81, "rank": 1}],
        }
    )

    recommendation_id: str
    generation: str
    fence: int
    degraded: bool
    ranked_by: Literal["score", "model"]
    items: list[RankedItem]
    weights: dict[str, float] | None = None
    neighbors: list[str] | None = None
    # Until 1.0, for callers of before.
    neighbours: Annotated[list[str] | None, Field(json_schema_extra={"deprecated": True})] = None
    memories: list[str] | None = None
    item_model: bool | None = None
    cold: bool | None = None
    cursor: str | None = None

    @classmethod
    def of(cls, found: Recommendation, explain: bool) -> RecommendAnswer:
        # Fields that are not set are left out of the answer; an unknown item_id is set, to null.
        seen: dict[str, Any] = {}
        if explain:
            seen = {
                "weights": found.weights,
                "neighbors": list(found.neighbors),
                "neighbours": list(found.neighbors),
                "memories": list(found.memories),
                "item_model": found.item_model,
            }
        return cls(
            recommendation_id=uuid4().hex,  # random: it says nothing of whom it is for
            generation=found.generation,
            fence=found.fence,
            degraded=found.degraded,
            ranked_by=found.ranked_by.value,
            items=[_item(item, found.weights if explain else None) for item in found.items],
            **seen,
            **({"cold": True} if found.cold else {}),
        )


def _item(item: Ranked, weights: dict[str, float] | None) -> RankedItem:
    plain: dict[str, Any] = {"item_id": item.item_id, "title": item.title, "score": item.score, "rank": item.rank}
    if weights is not None:
        plain["weights"] = weights
    if item.parts is not None:
        plain["parts"] = dict(item.parts)
        plain["because"] = [Because(item_id=other.item_id, title=other.title) for other in item.because]
    return RankedItem(**plain)

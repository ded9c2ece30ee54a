"""Rankings beside `POST /recommend` on the wire: of items like one, of documents, of many people."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from service.entrypoints.http.filter_schemas import Filter
from service.entrypoints.http.recommend_schemas import Diversity, Excluded, RecommendAnswer, TopK
from service.entrypoints.http.schemas import LONGEST_TEXT, WHOLE, Id, answer_config, body_config, name_of
from service.records import ById
from service.scoring.requests import Query, RankBy

MOST_DOCUMENTS = 200
MOST_PEOPLE = 1_000
_MOST_LIKES = 100

DocumentText = Annotated[str, StringConstraints(min_length=1, max_length=20_000, pattern=r"^[^\x00]+$")]


class SimilarBody(BaseModel):
    """How many items, and which."""

    model_config = body_config({"top_k": 5}, {"filter": {"categories": {"any": ["Drama"]}}, "diversity": 0.3})

    top_k: TopK = 10
    exclude: Excluded = []
    filter: Filter | None = None
    diversity: Diversity = 0.0

    def query(self, item_id: str) -> Query:
        """What is recommended to whoever likes this item, and of whom nothing else is known."""
        return Query(
            user_id=None,
            opinions=((ById(item_id), True),),
            candidates=None,
            top_k=self.top_k,
            exclude=(ById(item_id), *map(name_of, self.exclude)),
            conditions=() if self.filter is None else self.filter.conditions(),
            diversity=self.diversity,
        )


class Document(BaseModel):
    """A text to be ranked."""

    model_config = body_config({"text": "Babe (1995)"})

    text: DocumentText


class RerankBody(BaseModel):
    """A request as clients of Jina's and Cohere's rerankers send it.

    Each line of `query` is the title or id of an item that somebody likes, the newest last; or `user_id` names a person, whose
    history is read beside it. Documents are ids or titles of items, or any other texts, of which the first 500 characters
    count. Unknown fields are passed over, as these clients send some of their own.
    """

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        frozen=True,
        json_schema_extra={
            "examples": [{"query": "Toy Story (1995)", "documents": ["Heat (1995)", "Babe (1995)"], "top_n": 1}]
        },
    )

    model: Annotated[str, StringConstraints(max_length=200)] = "lethe"
    query: Annotated[str, StringConstraints(max_length=20_000, pattern=r"^[^\x00]*$")] = ""
    user_id: Id | None = None
    documents: Annotated[list[DocumentText | Document], Field(min_length=1, max_length=MOST_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1), WHOLE] | None = None
    return_documents: bool = False

    @model_validator(mode="after")
    def _one_subject(self) -> RerankBody:
        if self.user_id is not None and self.query.strip():
            raise PydanticCustomError("one_subject", "Give user_id or a query, not both")
        return self

    def texts(self) -> list[str]:
        """The documents."""
        return [one if isinstance(one, str) else one.text for one in self.documents]

    def names(self) -> list[str]:
        """What is ranked of each document."""
        return [text[:LONGEST_TEXT] for text in self.texts()]

    def ask(self) -> Query:
        """The query that scores every document."""
        lines = [line.strip()[:LONGEST_TEXT] for line in self.query.splitlines()]
        liked = [line for line in lines if line][-_MOST_LIKES:]
        return Query(
            user_id=self.user_id,
            opinions=tuple((name, True) for name in liked),
            candidates=tuple(dict.fromkeys(self.names())),
            top_k=MOST_DOCUMENTS,
            rank_by=RankBy.SCORE,
        )


class RerankResult(BaseModel):
    """A document by its place in the request, and its score."""

    model_config = answer_config({"index": 1, "relevance_score": 0.81})

    index: int
    relevance_score: float
    document: Document | None = None


class RerankAnswer(BaseModel):
    """The documents, best first; those that may not be shown now are left out."""

    model_config = answer_config({"model": "lethe", "results": [{"index": 1, "relevance_score": 0.81}]})

    model: str
    object: Literal["list"] = "list"
    results: list[RerankResult]

    @classmethod
    def of(cls, body: RerankBody, scores: list[float | None]) -> RerankAnswer:
        """`scores` are one a document; None: it may not be shown."""
        scored = [(at, score) for at, score in enumerate(scores) if score is not None]
        best = sorted(scored, key=lambda one: -one[1])[: body.top_n]
        texts = body.texts()
        results = [
            RerankResult(index=at, relevance_score=score, document=Document(text=texts[at]))
            if body.return_documents
            else RerankResult(index=at, relevance_score=score)
            for at, score in best
        ]
        return cls(model=body.model, object="list", results=results)


class BatchBody(BaseModel):
    """Many people, each of whom gets an answer of their own."""

    model_config = body_config({"user_ids": ["196", "186"], "top_k": 5})

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_PEOPLE)]
    top_k: TopK = 10
    exclude: Excluded = []
    filter: Filter | None = None
    diversity: Diversity = 0.0

    def queries(self) -> list[Query]:
        conditions = () if self.filter is None else self.filter.conditions()
        exclude = tuple(map(name_of, self.exclude))
        return [
            Query(user, (), None, self.top_k, exclude=exclude, conditions=conditions, diversity=self.diversity)
            for user in self.user_ids
        ]


class BatchLine(BaseModel):
    """One line of the answer: a person's place in the request, and their answer or what stood in its way."""

    model_config = answer_config({"index": 0, "answer": None, "error": "Too much is waiting."})

    index: int
    answer: RecommendAnswer | None = None
    error: str | None = None

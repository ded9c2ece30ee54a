"""The shapes of requests and answers on the wire. Bodies are strict: no unknown fields, no silent conversions."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service.records import (
    LONGEST_KEY,
    LONGEST_KEY_AS_GIVEN,
    ById,
    ByTitle,
    ForgetRequest,
    ItemName,
    Key,
    KeyRefused,
    key_of,
)
from service.scoring.requests import Query, RankBy, Ranked, Recommendation


def _key(text: str) -> Key:
    try:
        return key_of(text)
    except KeyRefused as error:
        raise PydanticCustomError("key", "This id {reason}", {"reason": str(error)}) from None


Id = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_KEY_AS_GIVEN,
        description=f"Normalized to NFC, without white space at its ends; then 1 to {LONGEST_KEY} characters",
    ),
    AfterValidator(_key),
]
# A title is text that prompts make safe themselves, but no text column of a database holds NUL.
LONGEST_TEXT = 500
Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT, pattern=r"^[^\x00]+$")]
IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


def _body(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra={"examples": list(examples)})


class ItemById(BaseModel):
    """The item with this id."""

    model_config = _body({"item_id": "34"})

    item_id: Id

    def name(self) -> ById:
        return ById(self.item_id)


class ItemByTitle(BaseModel):
    """The item with exactly this title; of several that with the smallest id."""

    model_config = _body({"title": "Babe (1995)"})

    title: Text

    def name(self) -> ByTitle:
        return ByTitle(self.title)


def _id_or_title(text: str) -> str:
    # Whatever an import takes as an id can be named, white space at its ends and all.
    if len(text) > LONGEST_TEXT:
        _key(text)
    return text


IdOrTitle = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_KEY_AS_GIVEN, pattern=r"^[^\x00]+$"),
    AfterValidator(_id_or_title),
]


def _form_of(value: object) -> str:
    if not isinstance(value, dict):
        return FORMS[0]
    return FORMS[1] if "item_id" in value else FORMS[2]


# Of a named item; the location of an error does not repeat them.
FORMS = ("(text)", "(item_id)", "(title)")
NamedItem = Annotated[
    Annotated[IdOrTitle, Tag(FORMS[0])] | Annotated[ItemById, Tag(FORMS[1])] | Annotated[ItemByTitle, Tag(FORMS[2])],
    Discriminator(_form_of),
    Field(
        description="Text is the item's id, or if no item has that id, its exact title; where an id equals another item's "
        "title, `{item_id: ...}` or `{title: ...}` says which is meant"
    ),
]
Names = Annotated[list[NamedItem], Field(max_length=50)]


def _name_of(item: str | ItemById | ItemByTitle) -> ItemName:
    return item if isinstance(item, str) else item.name()


def _answer(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(frozen=True, json_schema_extra={"examples": [example]})


class Opinion(BaseModel):
    """An item, by its id or title, and whether it was liked."""

    model_config = _body({"item": "Toy Story (1995)", "liked": True})

    item: NamedItem
    liked: bool = True


class History(BaseModel):
    """Item ids or titles, oldest first.

    `opinions` keeps the order in which likes and dislikes came; the shorter form, `liked` and `disliked`, counts dislikes as
    newer than all likes. An empty history is that of a stranger.
    """

    model_config = _body(
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
        return tuple((_name_of(item), liked) for item, liked in stated)


class RecommendBody(BaseModel):
    """Exactly one of `user_id` and `history`. Without `candidates`, they are retrieved from the catalog.

    Titles need not be exact here: `the matrix` is `Matrix, The (1999)`, and of several items that say the same the one is meant
    that most people have met. An item that `candidates` names more than once, in whatever way, is answered once.

    `rank_by` decides the order: `model` (what people like together, content and the score; the default without `candidates`)
    or `score` (the default with them).
    """

    model_config = _body(
        {"user_id": "196", "top_k": 5},
        {"history": {"liked": ["Toy Story (1995)"]}, "candidates": ["Heat (1995)", "Babe (1995)"], "explain": True},
    )

    user_id: Id | None = None
    history: History | None = None
    candidates: Annotated[list[NamedItem], Field(min_length=1, max_length=200)] | None = None
    top_k: Annotated[int, Field(ge=1, le=200)] = 10
    rank_by: Literal["score", "model"] | None = None
    explain: bool = False

    @model_validator(mode="after")
    def _one_subject(self) -> RecommendBody:
        if (self.user_id is None) == (self.history is None):
            raise PydanticCustomError("one_subject", "Give exactly one of user_id and history")
        return self

    def query(self) -> Query:
        history = self.history or History()
        return Query(
            user_id=self.user_id,
            opinions=history.in_order(),
            candidates=None if self.candidates is None else tuple(map(_name_of, self.candidates)),
            top_k=self.top_k,
            rank_by=None if self.rank_by is None else RankBy(self.rank_by),
            explain=self.explain,
        )


class Because(BaseModel):
    """An item of the history that speaks for an item of the answer: people liked both."""

    model_config = _answer({"item_id": "1", "title": "Toy Story (1995)"})

    item_id: str
    title: str


class RankedItem(BaseModel):
    """`score` is P(Yes) / (P(Yes) + P(No)), what the language model and the adapters expect: the chance of a like.

    With `explain`: `weights` (adapter digest -> weight); for items of the catalog `parts` (of the value that `rank_by: model`
    orders by, beside the language model's) and `because` (the items of the history that speak most for this one).
    """

    item_id: str | None
    title: str
    score: float
    rank: int
    weights: dict[str, float] | None = None
    parts: dict[str, float] | None = None
    because: list[Because] | None = None


class RecommendAnswer(BaseModel):
    """The served generation's ranking, as of `fence`. `degraded`: every adapter is masked, the frozen model answered alone.

    Present with `explain`: `neighbors`, the validation rows that decided the weights, nearest first (a row is known by a keyed
    hash, which tells nothing about any person to whoever does not hold the installation's secret; `neighbours` is the same,
    until 1.0); `memories`, the digests of
    the memories whose counts were summed; and `item_model`, whether it answered too: under any mask it does not.
    """

    model_config = _answer(
        {
            "generation": "g-5f1c",
            "fence": 3,
            "degraded": False,
            "ranked_by": "model",
            "items": [{"item_id": "34", "title": "Babe (1995)", "score": 0.81, "rank": 1}],
        }
    )

    generation: str
    fence: int
    degraded: bool
    ranked_by: Literal["score", "model"]
    items: list[RankedItem]
    neighbors: list[str] | None = None
    # Until 1.0, for callers of before.
    neighbours: Annotated[list[str] | None, Field(json_schema_extra={"deprecated": True})] = None
    memories: list[str] | None = None
    item_model: bool | None = None

    @classmethod
    def of(cls, found: Recommendation, explain: bool) -> RecommendAnswer:
        # Fields that are not set are left out of the answer; an unknown item_id is set, to null.
        seen: dict[str, Any] = {}
        if explain:
            seen = {
                "neighbors": list(found.neighbors),
                "neighbours": list(found.neighbors),
                "memories": list(found.memories),
                "item_model": found.item_model,
            }
        return cls(
            generation=found.generation,
            fence=found.fence,
            degraded=found.degraded,
            ranked_by=found.ranked_by.value,
            items=[_item(item, found.weights if explain else None) for item in found.items],
            **seen,
        )


def _item(item: Ranked, weights: dict[str, float] | None) -> RankedItem:
    plain: dict[str, Any] = {"item_id": item.item_id, "title": item.title, "score": item.score, "rank": item.rank}
    if weights is not None:
        plain["weights"] = weights
    if item.parts is not None:
        plain["parts"] = dict(item.parts)
        plain["because"] = [Because(item_id=other.item_id, title=other.title) for other in item.because]
    return RankedItem(**plain)


class ForgetBody(BaseModel):
    """Without `item_ids`, everything of the user is forgotten.

    `item_ids` takes ids and exact titles; a title stands for every item that has it. What is held is erased
    and kept out for ever. What is not held is remembered for `LETHE_REMEMBER_DAYS`, and only rows older than the request are
    kept out meanwhile: they may still be under way. With `remember` it is kept out for ever, too.
    """

    model_config = _body(
        {"user_id": "196"},
        {"user_id": "196", "item_ids": ["242", {"item_id": "302"}, {"title": "Babe (1995)"}]},
        {"user_id": "196", "remember": True},
    )

    user_id: Id
    item_ids: Annotated[list[NamedItem], Field(min_length=1, max_length=1000)] | None = None
    remember: bool = False

    def names(self) -> list[ItemName] | None:
        """The items that are named; None: everything."""
        return None if self.item_ids is None else list(map(_name_of, self.item_ids))


class FoundCounts(BaseModel):
    """How much was held when the deletion was accepted."""

    model_config = _answer({"interactions": 120, "training_samples": 16, "validation_rows": 0, "shards": 1})

    interactions: int
    training_samples: int
    validation_rows: int
    shards: int

    @classmethod
    def of(cls, request: ForgetRequest) -> FoundCounts:
        return cls(
            interactions=request.erased_interactions,
            training_samples=request.masked_samples,
            validation_rows=request.masked_rows,
            shards=len(request.affected_shards),
        )


class FoundItems(BaseModel):
    """Of the distinct items that were named: those erased, erased before, not this user's, and not items at all."""

    model_config = _answer({"named": 3, "erased": 2, "already_erased": 0, "not_held": 0, "unknown": 1})

    named: int
    erased: int
    already_erased: int
    not_held: int
    unknown: int


OutcomeWord = Annotated[
    Literal["erased", "already_erased", "nothing_held"],
    Field(
        description="erased: it was held. already_erased: an earlier deletion has erased it. nothing_held: Lethe has never "
        "held it; is the id right?"
    ),
]


def _finding(request: ForgetRequest) -> dict[str, Any]:
    return {
        "held": request.held,
        "outcome": request.found.value,
        "counts": FoundCounts.of(request),
        "items": None if request.items is None else FoundItems(**asdict(request.items)),
    }


class ForgetAnswer(BaseModel):
    """A deletion as it was accepted: already effective, by masks, when this is read.

    `held` says whether there was anything to erase. A deletion that found nothing is `completed` at once, with `held` false.
    """

    model_config = _answer(
        {
            "request_id": "f-81b2",
            "state": "accepted",
            "held": True,
            "outcome": "erased",
            "counts": {"interactions": 120, "training_samples": 16, "validation_rows": 0, "shards": 1},
            "items": None,
            "affected_shards": ["9c0d"],
            "fence": 4,
        }
    )

    request_id: str
    state: str
    held: bool
    outcome: OutcomeWord
    counts: FoundCounts
    items: FoundItems | None
    affected_shards: list[str]
    fence: int

    @classmethod
    def of(cls, request: ForgetRequest) -> ForgetAnswer:
        return cls(
            request_id=request.request_id,
            state=request.state,
            affected_shards=list(request.affected_shards),
            fence=request.fence,
            **_finding(request),
        )


class ForgetAcknowledged(BaseModel):
    """What a key without the scope `rights` is told of a deletion: one and the same whether or not anything was held."""

    model_config = _answer({"request_id": "f-81b2", "state": "accepted", "accepted_at": "2025-01-01T12:00:00Z"})

    request_id: str
    state: Literal["accepted"]
    accepted_at: AwareDatetime

    @classmethod
    def of(cls, request: ForgetRequest) -> ForgetAcknowledged:
        return cls(
            request_id=request.request_id,
            state="accepted",
            accepted_at=datetime.fromtimestamp(request.accepted_at, UTC),
        )


class ForgetStatus(BaseModel):
    """Where a deletion stands: accepted, retraining, completed or failed (and then tried again)."""

    model_config = _answer(
        {
            "request_id": "f-81b2",
            "state": "completed",
            "scope": "user",
            "held": True,
            "outcome": "erased",
            "counts": {"interactions": 120, "training_samples": 16, "validation_rows": 0, "shards": 1},
            "items": None,
            "fence": 4,
            "affected_shards": ["9c0d"],
            "accepted_at": "2025-01-01T12:00:00Z",
            "masked_at": "2025-01-01T12:00:00.005Z",
            "retraining_at": "2025-01-01T12:00:01Z",
            "completed_at": "2025-01-01T12:01:30Z",
            "attempts": 1,
            "error": None,
        }
    )

    request_id: str
    state: str
    scope: str
    held: bool
    outcome: OutcomeWord
    counts: FoundCounts
    items: FoundItems | None
    fence: int
    affected_shards: list[str]
    accepted_at: AwareDatetime
    masked_at: AwareDatetime
    retraining_at: AwareDatetime | None
    completed_at: AwareDatetime | None
    attempts: int
    error: str | None

    @classmethod
    def of(cls, request: ForgetRequest) -> ForgetStatus:
        return cls(
            request_id=request.request_id,
            state=request.state,
            scope=request.scope,
            fence=request.fence,
            affected_shards=list(request.affected_shards),
            accepted_at=datetime.fromtimestamp(request.accepted_at, UTC),
            masked_at=datetime.fromtimestamp(request.masked_at, UTC),
            retraining_at=_time(request.retraining_at),
            completed_at=_time(request.completed_at),
            attempts=request.attempts,
            error=request.error,
            **_finding(request),
        )


class ServedShard(BaseModel):
    """One adapter of the served generation; `masked` while it may not be used."""

    digest: str
    name: str
    samples: int
    masked: bool


class GenerationAnswer(BaseModel):
    """The generation that this process serves, and what it was built from."""

    model_config = _answer(
        {
            "generation": "g-5f1c",
            "fence": 3,
            "partition": "tree",
            "unit": "user",
            "activation": "question",
            "level": "ND",
            "frozen_digest": "77aa",
            "shards": [{"digest": "9c0d", "name": "010", "samples": 812, "masked": False}],
            "validation_rows": 940,
        }
    )

    generation: str
    fence: int
    partition: str
    unit: str
    activation: str
    level: str
    frozen_digest: str
    shards: list[ServedShard]
    validation_rows: int


class Health(BaseModel):
    """One word."""

    model_config = _answer({"status": "ok"})

    status: str


class SignedReceipt(BaseModel):
    """What the server signed of a deletion: `lethe receipts verify` checks it, byte for byte as it was downloaded."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        json_schema_extra={
            "examples": [{"algorithm": "Ed25519", "public_key": "4sb8…", "receipt": {}, "signature": "axkh…"}]
        },
    )

    algorithm: str
    public_key: str
    key_id: str | None = None  # the first receipts had none
    receipt: dict[str, Any]
    signature: str


class Fault(BaseModel):
    """One place of a request that is wrong, and why."""

    model_config = _answer({"location": "body.top_k", "message": "Input should be less than or equal to 200"})

    location: str
    message: str


class Problem(BaseModel):
    """RFC 9457. `errors` says, for an invalid request, where it is wrong; it never repeats what was sent."""

    model_config = _answer(
        {
            "type": "urn:lethe:problem:unknown-request",
            "title": "Unknown forget request",
            "status": 404,
            "detail": "No forget request has this id.",
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = None


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

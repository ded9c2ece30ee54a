"""The shapes of requests and answers on the wire. Bodies are strict: no unknown fields, no silent conversions."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)
from pydantic_core import PydanticCustomError

from service.generation import GenerationInfo
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


def _key(text: str) -> Key:
    try:
        return key_of(text)
    except KeyRefused as error:
        raise PydanticCustomError("key", "This id {reason}", {"reason": str(error)}) from None


# What `key_of` cuts off both ends. Spelled out: of the schema's dialects each means something else by \\s.
_WHITE = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
Id = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_KEY_AS_GIVEN,
        description=f"Normalized to NFC, without white space at its ends; then 1 to {LONGEST_KEY} characters. (Decomposed, the "
        f"same id may have more: up to {LONGEST_KEY_AS_GIVEN} are taken.)",
        # In the document stands what is taken of any text, in the validator what is taken of some.
        json_schema_extra={"maxLength": LONGEST_KEY, "pattern": rf"^[^\x00]*[^\x00{_WHITE}][^\x00]*$"},
    ),
    AfterValidator(_key),
]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON has one kind of number: 5.0 is a whole one. It stands behind the bounds, or the document would not state these.
WHOLE = BeforeValidator(_whole)
# A title is text that prompts make safe themselves, but no text column of a database holds NUL.
LONGEST_TEXT = 500
Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT, pattern=r"^[^\x00]+$")]
IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


def body_config(*examples: dict[str, Any], **stated: Any) -> ConfigDict:
    """How bodies are read: strictly, with these examples in the document, and what else is `stated` of the schema there."""
    schema = {"examples": list(examples), **stated}
    return ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra=schema)


class ItemById(BaseModel):
    """The item with this id."""

    model_config = body_config({"item_id": "34"})

    item_id: Id

    def name(self) -> ById:
        return ById(self.item_id)


class ItemByTitle(BaseModel):
    """The item with exactly this title; of several that with the smallest id."""

    model_config = body_config({"title": "Babe (1995)"})

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
    Field(json_schema_extra={"maxLength": LONGEST_TEXT}),  # longer, it is a decomposed id or nothing
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


def name_of(item: str | ItemById | ItemByTitle) -> ItemName:
    """The item that is named, as the rooms know it."""
    return item if isinstance(item, str) else item.name()


def answer_config(example: dict[str, Any]) -> ConfigDict:
    """How answers are made: frozen, with this example in the document."""
    return ConfigDict(frozen=True, json_schema_extra={"examples": [example]})


class ForgetBody(BaseModel):
    """Without `item_ids`, everything of the user is forgotten.

    `item_ids` takes ids and exact titles; a title stands for every item that has it. What is held is erased
    and kept out for ever. What is not held is remembered for `LETHE_REMEMBER_DAYS`, and only rows older than the request are
    kept out meanwhile: they may still be under way. With `remember` it is kept out for ever, too.
    """

    model_config = body_config(
        {"user_id": "196"},
        {"user_id": "196", "item_ids": ["242", {"item_id": "302"}, {"title": "Babe (1995)"}]},
        {"user_id": "196", "remember": True},
    )

    user_id: Id
    item_ids: Annotated[list[NamedItem], Field(min_length=1, max_length=1000)] | None = None
    remember: bool = False

    def names(self) -> list[ItemName] | None:
        """The items that are named; None: everything."""
        return None if self.item_ids is None else list(map(name_of, self.item_ids))


class FoundCounts(BaseModel):
    """How much was held when the deletion was accepted. `impressions`: answers that were erased, or had an item taken out."""

    model_config = answer_config(
        {"interactions": 120, "impressions": 7, "training_samples": 16, "validation_rows": 0, "shards": 1}
    )

    interactions: int
    impressions: int
    training_samples: int
    validation_rows: int
    shards: int

    @classmethod
    def of(cls, request: ForgetRequest) -> FoundCounts:
        return cls(
            interactions=request.erased_interactions,
            impressions=request.erased_impressions,
            training_samples=request.masked_samples,
            validation_rows=request.masked_rows,
            shards=len(request.affected_shards),
        )


class FoundItems(BaseModel):
    """How many of the distinct items that were named were erased now, erased before, not this user's, and no items at all."""

    model_config = answer_config({"named": 3, "erased": 2, "already_erased": 0, "not_held": 0, "unknown": 1})

    named: int
    erased: int
    already_erased: int
    not_held: int
    unknown: int


OutcomeWord = Annotated[
    Literal["erased", "already_erased", "merged", "nothing_held"],
    Field(
        description="erased: it was held. already_erased: an earlier deletion has erased it. merged: what was held is that of "
        "the user into whom this one was merged. nothing_held: Lethe has never held it; is the id right?"
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
    The state `held` is another thing: a legal hold stands over the person, and what is masked is erased when it is released.
    """

    model_config = answer_config(
        {
            "request_id": "f-81b2",
            "state": "accepted",
            "held": True,
            "outcome": "erased",
            "counts": {
                "interactions": 120,
                "impressions": 7,
                "training_samples": 16,
                "validation_rows": 0,
                "shards": 1,
            },
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

    model_config = answer_config({"request_id": "f-81b2", "state": "accepted", "accepted_at": "2025-01-01T12:00:00Z"})

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
    """Where a deletion stands: accepted, retraining, completed or failed (and then tried again); and until when it is due.

    One that is `held` is in force, and erases what it has to when the legal hold is released; it is due from then on.
    """

    model_config = answer_config(
        {
            "request_id": "f-81b2",
            "state": "completed",
            "scope": "user",
            "held": True,
            "outcome": "erased",
            "counts": {
                "interactions": 120,
                "impressions": 7,
                "training_samples": 16,
                "validation_rows": 0,
                "shards": 1,
            },
            "items": None,
            "fence": 4,
            "affected_shards": ["9c0d"],
            "accepted_at": "2025-01-01T12:00:00Z",
            "masked_at": "2025-01-01T12:00:00.005Z",
            "retraining_at": "2025-01-01T12:00:01Z",
            "completed_at": "2025-01-01T12:01:30Z",
            "due_at": "2025-01-31T12:00:00Z",
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
    due_at: AwareDatetime
    attempts: int
    error: str | None

    @classmethod
    def of(cls, request: ForgetRequest, due_seconds: float) -> ForgetStatus:
        """`due_seconds`: from acceptance, or from the release of the hold that it waited for, until it is due."""
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
            due_at=datetime.fromtimestamp(request.owed_since + due_seconds, UTC),
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


class ServedComputing(BaseModel):
    """On what this process computes: device and precision of the frozen model and why, its attention, the neighbor index."""

    model_config = answer_config(
        {
            "device": "cpu",
            "dtype": "float32",
            "why": "cpu, as torch sees no GPU; float32, as on every processor; training on the same device",
            "attention": "fused for processors",
            "neighbors": "cpu: the model computes there",
        }
    )

    device: str
    dtype: str
    why: str
    attention: str
    neighbors: str


class GenerationAnswer(BaseModel):
    """The generation that this process serves, and what it was built from."""

    model_config = answer_config(
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
            "computing": {
                "device": "cpu",
                "dtype": "float32",
                "why": "cpu, as torch sees no GPU; float32, as on every processor; training on the same device",
                "attention": "fused for processors",
                "neighbors": "cpu: the model computes there",
            },
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
    computing: ServedComputing | None = None

    @classmethod
    def of(cls, served: GenerationInfo) -> Self:
        """The answer that tells of this generation."""
        config = served.config
        return cls(
            generation=served.generation,
            fence=served.fence,
            partition=config.partition,
            unit=config.unit,
            activation=config.activation,
            level=config.level,
            frozen_digest=served.model.digest,
            shards=[ServedShard.model_validate(asdict(shard)) for shard in served.shards],
            validation_rows=served.validation_rows,
            computing=served.computing and ServedComputing.model_validate(served.computing),
        )


class Health(BaseModel):
    """One word."""

    model_config = answer_config({"status": "ok"})

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

    model_config = answer_config({"location": "body.top_k", "message": "Input should be less than or equal to 200"})

    location: str
    message: str


class Problem(BaseModel):
    """RFC 9457. `errors` says, for an invalid request, where it is wrong; it never repeats what was sent."""

    model_config = answer_config(
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

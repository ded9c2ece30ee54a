"""Events on the wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from service.data.events import EventMeanings
from service.entrypoints.http.schemas import WHOLE, Id, NamedItem, answer_config, body_config, name_of
from service.records import SOURCE_PATTERN, Correction, ItemName

MOST_EVENTS = 10_000
_LATEST = 99_999_999_999  # seconds: a time in milliseconds is no time of ours

EventKind = Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=r"^[\w.:-]+$")]
Source = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=SOURCE_PATTERN)]
EventId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


class EventRow(BaseModel):
    """What somebody did with an item: `liked`, a `rating`, or an `event` (play, purchase, ...) that settings give a meaning.

    `timestamp` is in seconds since the epoch; left out, it is the time of arrival. An event whose `event_id` was
    taken before of this user changes nothing. `recommendation_id` is that of the answer which it came of: if the user was shown
    the item there, it is attributed to it, also where events of its kind say nothing else (`ignored`). `source` is a label of
    where the row comes from (a client, a feed; never a person), by which a selection finds rows that are to be forgotten.
    """

    model_config = body_config(
        {"user_id": "196", "item_id": "242", "event": "play", "event_id": "e-1"},
        {
            "user_id": "196",
            "item_id": "242",
            "event": "click",
            "recommendation_id": "0d9c5f7e3b1a4c62a8f04e6d2b97c315",
        },
        {"user_id": "196", "item_id": "242", "rating": 4.0, "source": "web-shop"},
    )

    user_id: Id
    item_id: Id
    liked: bool | None = None
    rating: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] | None = None
    event: EventKind | None = None
    timestamp: Annotated[int, Field(ge=0, le=_LATEST), WHOLE] | None = None
    event_id: EventId | None = None
    recommendation_id: EventId | None = None
    source: Source | None = None

    @model_validator(mode="after")
    def _says_something(self) -> EventRow:
        if (self.event is None) == (self.liked is None and self.rating is None):
            raise PydanticCustomError("one_opinion", "Give liked, a rating or both, or an event")
        return self


class RectifyBody(BaseModel):
    """What a person says of an item instead of what is held: `liked`, a `rating`, or both.

    Where `liked` is left out, the rating decides.
    """

    model_config = body_config({"user_id": "196", "item_id": "242", "liked": False})

    user_id: Id
    item_id: Id
    liked: bool | None = None
    rating: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> RectifyBody:
        if self.liked is None and self.rating is None:
            raise PydanticCustomError("one_opinion", "Give liked, a rating or both")
        return self

    def correction(self, meanings: EventMeanings) -> Correction:
        """The opinion that replaces what is held, with these meanings of ratings."""
        if self.liked is None and self.rating is not None:
            return Correction(self.item_id, meanings.of_rating(self.rating), self.rating)
        return Correction(self.item_id, bool(self.liked), self.rating)


class EventsBody(BaseModel):
    """Rows of any number of people, taken in one transaction: all of them, or (where the answer is an error) none."""

    model_config = body_config(
        {"interactions": [{"user_id": "196", "item_id": "242", "liked": True, "timestamp": 881250949}]}
    )

    interactions: Annotated[list[EventRow], Field(min_length=1, max_length=MOST_EVENTS)]
    allow_returning: Annotated[
        bool, Field(description="Take people back in who were forgotten: their tombstones are removed")
    ] = False


EventWord = Annotated[
    Literal[
        "new",
        "changed",
        "unchanged",
        "outdated",
        "duplicate",
        "ignored",
        "forgotten",
        "restricted",
        "unknown_item",
        "unknown_event",
    ],
    Field(
        description="new, changed: it is held. unchanged: it was held already. outdated: what is held is newer. duplicate: its "
        "event_id was taken before. ignored: events of its kind say nothing here. Refused: forgotten (its user asked for "
        "deletion), restricted (its user's data may not be used), unknown_item, unknown_event (no setting gives it a meaning)"
    ),
]


class EventsAnswer(BaseModel):
    """What became of each row, in their order, and how many had each outcome.

    Present where a row has a `recommendation_id`: `attributed`, whether each was attributed to an answer. Answers are
    remembered only if `LETHE_IMPRESSIONS_DAYS` says so, and what is not known is passed over.
    """

    model_config = answer_config({"taken": 1, "counts": {"new": 1}, "outcomes": ["new"]})

    taken: int
    counts: dict[EventWord, int]
    outcomes: list[EventWord]
    attributed: list[bool] | None = None

    @classmethod
    def of(cls, outcomes: Sequence[EventWord], attributed: Sequence[bool] | None) -> EventsAnswer:
        """`attributed` is None where no row names an answer; then it is left out."""
        counts = Counter(outcomes)
        told: dict[str, Any] = {} if attributed is None else {"attributed": list(attributed)}
        return cls(taken=counts["new"] + counts["changed"], counts=dict(counts), outcomes=list(outcomes), **told)


class ForgetInteractionsBody(BaseModel):
    """Single interactions of one user, to be forgotten: the items that they name, by id or exact title."""

    model_config = body_config({"user_id": "196", "item_ids": ["242", {"title": "Babe (1995)"}]})

    user_id: Id
    item_ids: Annotated[list[NamedItem], Field(min_length=1, max_length=1000)]
    remember: bool = False

    def names(self) -> list[ItemName]:
        return [name_of(item) for item in self.item_ids]

"""Items on the wire."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from service.entrypoints.http.filter_schemas import AttributeName, Number, Word, names_stated
from service.entrypoints.http.schemas import WHOLE, Id, Text, answer_config, body_config
from service.errors import InvalidInput
from service.ledger import ItemOutcome
from service.records import CatalogEntry, Item

MOST_ITEMS = 10_000
LONGEST_PAGE = 1_000

Description = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]
AttributeText = Annotated[str, StringConstraints(max_length=1_000, pattern=r"^[^\x00]*$")]
Attributes = Annotated[
    dict[AttributeName, bool | Number | AttributeText], Field(max_length=50, json_schema_extra=names_stated)
]
Categories = Annotated[list[Word], Field(max_length=50)]
Year = Annotated[int, Field(ge=-9999, le=9999), WHOLE]
_A_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)
_EARLIEST, _LATEST = (
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 30, tzinfo=UTC),
)  # beyond, UTC has no date for some zones


def _as_text(value: object) -> object:
    # Numbers, and texts that are numbers, would be taken as seconds or, if they are large, as milliseconds.
    if not isinstance(value, str) or _A_TIME.fullmatch(value) is None:
        raise PydanticCustomError("moment", "Give a time with its zone as text, like 2026-01-31T12:00:00Z")
    return value


def _with_a_date(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= _LATEST:
        raise PydanticCustomError("moment", "Give a time between the years 1 and 9999")
    return moment


# Strict bodies take no text for a time, but JSON has no times.
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_as_text), AfterValidator(_with_a_date)]

_EXAMPLE = {
    "title": "Babe (1995)",
    "year": 1995,
    "categories": ["Comedy", "Drama"],
    "attributes": {"language": "en", "price": 3.99, "in_stock": True},
}


class ItemBody(BaseModel):
    """An item as it is from now on; what is left out, it has not. It is shown while it is not hidden, between its times."""

    model_config = body_config(_EXAMPLE)

    title: Text
    description: Description | None = None
    categories: Categories = []
    year: Year | None = None
    author: Text | None = None
    attributes: Attributes = {}
    hidden: bool = False
    available_from: Moment | None = None
    available_until: Moment | None = None

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> ItemBody:
        if self.available_from and self.available_until and self.available_until <= self.available_from:
            raise PydanticCustomError("availability", "available_until must come after available_from")
        return self

    def entry(self, item_id: str) -> CatalogEntry:
        return CatalogEntry(
            item=Item(item_id, self.title, self.year, tuple(self.categories), self.author),
            description=self.description,
            attributes=self.attributes,
            hidden=self.hidden,
            available_from=_seconds(self.available_from),
            available_until=_seconds(self.available_until),
        )


class NamedItemBody(ItemBody):
    """An item with its id."""

    model_config = body_config({"item_id": "34", **_EXAMPLE})

    item_id: Id


class ItemsBody(BaseModel):
    """Items that are taken all, or (where the answer is an error) none."""

    model_config = body_config({"items": [{"item_id": "34", "title": "Babe (1995)"}]})

    items: Annotated[list[NamedItemBody], Field(min_length=1, max_length=MOST_ITEMS)]

    def entries(self) -> list[CatalogEntry]:
        return [item.entry(item.item_id) for item in self.items]


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)  # null, which may not be sent


_LEFT_OUT = Field(json_schema_extra=_without_default)


ChangedAttributes = Annotated[
    dict[AttributeName, bool | Number | AttributeText | None], Field(max_length=50, json_schema_extra=names_stated)
]


class ItemPatch(BaseModel):
    """What changes of an item; what is left out stays. Null takes a value away, where there may be none.

    `attributes` are merged: null takes one away.
    """

    model_config = body_config({"hidden": True}, {"attributes": {"in_stock": False, "price": None}}, minProperties=1)

    title: Annotated[Text | SkipJsonSchema[None], _LEFT_OUT] = None
    description: Description | None = None
    categories: Categories | None = None
    year: Year | None = None
    author: Text | None = None
    attributes: ChangedAttributes | None = None
    hidden: Annotated[bool | SkipJsonSchema[None], _LEFT_OUT] = None
    available_from: Moment | None = None
    available_until: Moment | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ItemPatch:
        if not self.model_fields_set:
            raise PydanticCustomError("nothing", "Give at least one field")
        if any(name in self.model_fields_set and getattr(self, name) is None for name in ("title", "hidden")):
            raise PydanticCustomError("null", "title and hidden may not be null")
        return self

    def changed(self, entry: CatalogEntry) -> CatalogEntry:
        """The entry with these changes. Raises InvalidInput if it would end before it begins."""
        item, kept, given = entry.item, entry, self.model_fields_set
        item = replace(item, **{name: getattr(self, name) for name in ("title", "year", "author") if name in given})
        if "categories" in given:
            item = replace(item, genres=tuple(self.categories or ()))
        # An item that somebody states is the catalog's, even if a row made it.
        kept = replace(kept, item=replace(item, created=False))
        kept = replace(kept, **{name: getattr(self, name) for name in ("description", "hidden") if name in given})
        if "available_from" in given:
            kept = replace(kept, available_from=_seconds(self.available_from))
        if "available_until" in given:
            kept = replace(kept, available_until=_seconds(self.available_until))
        _require_order(kept)
        if "attributes" not in given:
            return kept
        merged = {**kept.attributes, **self.attributes} if self.attributes else {}
        return replace(kept, attributes={name: value for name, value in merged.items() if value is not None})


class ItemAnswer(BaseModel):
    """An item as it is held."""

    model_config = answer_config(
        {
            "item_id": "34",
            "description": None,
            "author": None,
            "hidden": False,
            "available_from": None,
            "available_until": None,
            **_EXAMPLE,
        }
    )

    item_id: str
    title: str
    description: str | None
    categories: list[str]
    year: int | None
    author: str | None
    attributes: dict[str, bool | float | str]
    hidden: bool
    available_from: datetime | None
    available_until: datetime | None

    @classmethod
    def of(cls, entry: CatalogEntry) -> ItemAnswer:
        item = entry.item
        return cls(
            item_id=item.item_id,
            title=item.title,
            description=entry.description,
            categories=list(item.genres),
            year=item.year,
            author=item.author,
            attributes=dict(entry.attributes),
            hidden=entry.hidden,
            available_from=_moment(entry.available_from),
            available_until=_moment(entry.available_until),
        )


class ItemsPage(BaseModel):
    """Items in order of their ids, and the cursor of the next page (null: there is none)."""

    model_config = answer_config({"items": [], "cursor": None})

    items: list[ItemAnswer]
    cursor: str | None


class ItemsAnswer(BaseModel):
    """How many items were created, changed, and held as they were given."""

    model_config = answer_config({"created": 1, "changed": 0, "unchanged": 0})

    created: int
    changed: int
    unchanged: int

    @classmethod
    def of(cls, outcomes: Sequence[ItemOutcome]) -> ItemsAnswer:
        counts: dict[str, Any] = {outcome.value: outcomes.count(outcome) for outcome in ItemOutcome}
        return cls(**counts)


def _require_order(entry: CatalogEntry) -> None:
    begins, ends = entry.available_from, entry.available_until
    if begins is not None and ends is not None and ends <= begins:
        raise InvalidInput("available_until must come after available_from")


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

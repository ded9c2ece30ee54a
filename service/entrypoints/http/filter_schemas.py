"""Filters on the wire: what items must be to be in an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from service.entrypoints.http.schemas import body_config
from service.scoring.filters import AUTHOR, CATEGORY, YEAR, Condition, Conditions, Value, attribute_field, tagged

Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
AttributeName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\w.-]+$")]


def names_stated(schema: dict[str, Any]) -> None:
    """Let the document refuse names that a mapping's pattern does not fit, which `patternProperties` alone does not."""
    [(pattern, values)] = schema.pop("patternProperties").items()
    schema["additionalProperties"] = values
    schema["propertyNames"] = {**schema.get("propertyNames", {}), "pattern": pattern}


Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]
Scalar = bool | Number | Word
_MOST = 100


class Words(BaseModel):
    """Values of which any, all, or none are wanted."""

    model_config = body_config({"any": ["Drama", "War"], "none": ["Horror"]})

    any: Annotated[list[Word], Field(min_length=1, max_length=_MOST)] | None = None
    all: Annotated[list[Word], Field(max_length=_MOST)] = []
    none: Annotated[list[Word], Field(max_length=_MOST)] = []

    def condition(self, field: str) -> Condition:
        return _condition(field, self.any, self.all, self.none)


class Range(BaseModel):
    """A number from `min` to `max`, both included; either may be left out."""

    model_config = body_config({"min": 1990, "max": 1999})

    min: Number | None = None
    max: Number | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Range:
        if self.min is None and self.max is None:
            raise PydanticCustomError("range", "Give min, max or both")
        return self


class Values(BaseModel):
    """What one attribute must be: among `any`, none of `none`, from `min` to `max`."""

    model_config = body_config({"any": ["en", "fr"]}, {"min": 0, "max": 9.99})

    any: Annotated[list[Scalar], Field(min_length=1, max_length=_MOST)] | None = None
    none: Annotated[list[Scalar], Field(max_length=_MOST)] = []
    min: Number | None = None
    max: Number | None = None

    def condition(self, field: str) -> Condition:
        found = _condition(field, self.any, (), self.none)
        return Condition(field, found.any_of, found.all_of, found.none_of, self.min, self.max)


class Filter(BaseModel):
    """Conditions, all of which an item must meet. A plain value of an attribute means that it equals this."""

    model_config = body_config(
        {"categories": {"any": ["Drama"]}, "year": {"min": 1990}, "attributes": {"in_stock": True}}
    )

    categories: Words | None = None
    year: Range | None = None
    author: Words | None = None
    attributes: Annotated[
        dict[AttributeName, Scalar | Values], Field(max_length=20, json_schema_extra=names_stated)
    ] = {}

    def conditions(self) -> Conditions:
        found = []
        if self.categories is not None:
            found.append(self.categories.condition(CATEGORY))
        if self.author is not None:
            found.append(self.author.condition(AUTHOR))
        if self.year is not None:
            found.append(Condition(YEAR, least=self.year.min, most=self.year.max))
        for name, wanted in sorted(self.attributes.items()):
            field = attribute_field(name)
            found.append(wanted.condition(field) if isinstance(wanted, Values) else _condition(field, [wanted]))
        return tuple(found)


def _condition(
    field: str, any_of: Sequence[Value] | None, all_of: Sequence[Value] = (), none_of: Sequence[Value] = ()
) -> Condition:
    any_tagged = None if any_of is None else frozenset(map(tagged, any_of))
    return Condition(field, any_tagged, frozenset(map(tagged, all_of)), frozenset(map(tagged, none_of)))

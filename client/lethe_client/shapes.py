"""What all models of the contract have in common: how they are read and written."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidatorFunctionWrapHandler, WrapValidator

_COMMON = ConfigDict(frozen=True, hide_input_in_errors=True, validate_by_name=True, validate_by_alias=True)


class Body(BaseModel):
    """Part of a request. An unknown field is an error; what is not given is not sent."""

    model_config = _COMMON | ConfigDict(extra="forbid")


class Answer(BaseModel):
    """Part of an answer. Fields that a later service adds are passed over."""

    model_config = _COMMON | ConfigDict(extra="ignore")


class OpenAnswer(BaseModel):
    """An answer whose further fields are kept as they are."""

    model_config = _COMMON | ConfigDict(extra="allow")


def _or_any_text(value: Any, known: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, str) else known(value)


# On the words of an answer: a later service may have further ones, and must still be understood.
Open = WrapValidator(_or_any_text)

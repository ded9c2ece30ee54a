"""Cursors: where a page ended, said by what stood on the pages before it. They are opaque, and hold items' ids alone."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from service.records import key_of

_LONGEST = 65_536  # characters
_LONGEST_IN_URL = 6_000
_MOST_BYTES = 600_000  # a thousand of the longest ids


def ids_in(cursor: str) -> tuple[str, ...]:
    """The ids that `cursor_of` was given; of the empty cursor none. Raises ValueError for what is no cursor."""
    if not cursor:
        return ()
    try:
        packed = base64.urlsafe_b64decode(cursor.encode("ascii"))
        found = json.loads(zlib.decompressobj().decompress(packed, _MOST_BYTES))
    except (binascii.Error, UnicodeError, zlib.error, json.JSONDecodeError, RecursionError):
        raise ValueError("not a cursor") from None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError("not a cursor")
    return tuple(found)


def cursor_of(ids: tuple[str, ...]) -> str:
    """A text that stands for these ids in their order."""
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(ids).encode(), 9)).decode()


def _checked(cursor: str) -> str:
    try:
        for item_id in ids_in(cursor):
            key_of(item_id)
    except ValueError:
        raise PydanticCustomError("cursor", "This is no cursor that an answer gave") from None
    return cursor


_MEANING = "Empty for the first page; then as the answer before gave it"
Cursor = Annotated[str, Field(max_length=_LONGEST, description=_MEANING), AfterValidator(_checked)]
# Of a list it names one place, and has to fit into a URL.
ListCursor = Annotated[str, Field(max_length=_LONGEST_IN_URL, description=_MEANING), AfterValidator(_checked)]

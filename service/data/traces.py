"""What counts as a trace of a text that should be gone, and which texts stand anywhere by chance and so are no evidence."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from service.errors import InvalidInput
from service.records import KeyRefused, key_of

SHORTEST = 6  # bytes as UTF-8; files of numbers hold any few bytes
SHORTEST_NUMBER = 12  # digits; files hold times, sizes and other ids
_GLUE = frozenset("-_.@+")  # with a letter or digit beyond, part of a longer name: ann of ann-marie


@dataclass(frozen=True, slots=True)
class SoughtText:
    """One line of a list of texts: what it may look like where it was kept. `line` counts from 1."""

    line: int
    forms: tuple[str, ...]

    @property
    def is_distinctive(self) -> bool:
        return all(map(is_distinctive, self.forms))


def texts_to_look_for(content: str) -> list[SoughtText]:
    """The texts of a list, one a line. What lies around a text (white space, a JSON string's quotes) belongs to no id.

    Raises:
        InvalidInput: there is none. A search for nothing would find nothing, whatever is left.
    """
    lines = content.removeprefix("\ufeff").split("\n")  # not `splitlines`: an id may hold other separators
    sought = [SoughtText(number, tuple(_forms(line))) for number, line in enumerate(lines, 1) if line.strip()]
    if not sought:
        raise InvalidInput(
            "the list holds no text to look for, only blanks; give one text a line (a person's id, a title)"
        )
    return sought


def is_distinctive(text: str) -> bool:
    """Whether a text is too long to stand in files by chance."""
    return len(text.encode()) >= (SHORTEST_NUMBER if text.isdecimal() else SHORTEST)


def is_delimited(content: str, text: str) -> bool:
    """Whether a text stands in another as a value of its own, not inside a longer name or number."""
    at = content.find(text)
    while at >= 0:
        if stands_alone(content[max(0, at - 2) : at], content[at + len(text) : at + len(text) + 2]):
            return True
        at = content.find(text, at + 1)
    return False


def stands_alone(before: str, after: str) -> bool:
    """Whether what stands between these (two characters of each are enough) is a value of its own."""
    return not _goes_on(before[::-1]) and not _goes_on(after)


def _goes_on(outwards: str) -> bool:
    if outwards[:1].isalnum():
        return True
    return outwards[:1] in _GLUE and outwards[1:2].isalnum() if outwards else False


def _forms(line: str) -> Iterator[str]:
    """The text as it is stored (NFC, without white space around it), first; and as it may lie in what was imported."""
    text = line.strip()
    seen = set()
    for form in (_as_stored(text), text, unicodedata.normalize("NFD", text), _unquoted(text)):
        if form and form not in seen:
            seen.add(form)
            yield form


def _unquoted(text: str) -> str:
    try:
        value = json.loads(text) if text.startswith('"') else None
    except ValueError:
        return ""
    return _as_stored(value) if isinstance(value, str) else ""


def _as_stored(text: str) -> str:
    try:
        return key_of(text)
    except KeyRefused:  # no id, but maybe a title
        return unicodedata.normalize("NFC", text).strip()

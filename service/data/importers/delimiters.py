"""What stands between the fields of a file: told by its first line, which names the columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

_USUAL = (",", "\t", ";", "|", "::")
_WRITTEN = {"\\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_NAME_OR_QUOTE = re.compile(r'[\w"\r\n]')


def read_delimiter(text: str) -> str:
    r"""What is meant by a delimiter on a command line, where `\t` and `tab` are easier to type than a tab."""
    return _WRITTEN.get(text.lower(), text)


def find_delimiter(header: str, required: Sequence[str]) -> str:
    """That by which the line falls into fields among which are most of the required ones; a comma if none gives any.

    `csv.Sniffer` counts characters in a sample of rows instead, and is easily misled by titles; the names are known.
    """
    others = dict.fromkeys(character for character in header if not _NAME_OR_QUOTE.match(character))
    candidates = dict.fromkeys((*_USUAL, *others))
    return max(candidates, key=lambda delimiter: len(set(required).intersection(_fields(header, delimiter))))


def _fields(header: str, delimiter: str) -> list[str]:
    line = header.rstrip("\r\n")
    if len(delimiter) > 1:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except (csv.Error, TypeError, ValueError):
        return []

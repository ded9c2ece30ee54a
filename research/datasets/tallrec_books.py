"""Book-Crossing in the form that TALLRec released: finished prompts, read back into samples (Bao et al. 2023).

A released file is a JSON list of `{"instruction", "input", "output"}`. It names no users, so every prompt is taken as one
user of its own; and it lists likes before dislikes, so the order between the two is lost.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from service.data.importers.dataset import Limit
from service.data.importers.fields import as_author, as_title
from service.data.importers.files import find_file, open_text
from service.data.importers.rejections import MalformedRow, Rejections, Row, RowLocation, collect
from service.errors import ImportRefused
from service.records import Item, RatedItem, Sample

_ANSWERS = {"Yes.": True, "No.": False}
_INPUT = re.compile(
    r"User Preference: (?P<liked>.*)\nUser Unpreference: (?P<disliked>.*)\n"
    r'Whether the user will like the target book "(?P<target>.*)"\?'
)
_BY = '" written by '
_ID_BYTES = 12


def tallrec_books(folder: Path, part: str) -> tuple[Sample, ...]:
    """The prompts of `{part}.json` (plain, `.xz` or `.gz`) as samples, likes first in each history, in the file's order.

    An item's id is a digest of its title and author. Raises ImportRefused for a missing or damaged file, and for any prompt
    that is not worded as the released ones are: a measurement on part of a test set would not compare.
    """
    path = find_file(folder, f"{part}.json")
    if path is None:
        raise ImportRefused(f"there is no {part}.json in {folder}; it may end in .xz or .gz")
    rejected = Rejections(Limit(0, percent=False))
    samples = tuple(collect(_prompts(path), rejected, partial(_sample, part)))
    rejected.settle()
    return samples


def _prompts(path: Path) -> Iterator[tuple[RowLocation, Row]]:
    with open_text(path) as file:
        try:
            released = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ImportRefused(f"{path.name} is not JSON") from error
    if not isinstance(released, list):
        raise ImportRefused(f"{path.name} is not a JSON list of prompts")
    # A location counts prompts from 1: lines of JSON say nothing.
    return ((RowLocation(path.name, number), prompt) for number, prompt in enumerate(released, start=1))


def _sample(part: str, location: RowLocation, prompt: Any) -> Sample:
    read, answer = _INPUT.fullmatch(_text(prompt, "input")), _text(prompt, "output")
    if read is None or answer not in _ANSWERS:
        raise MalformedRow("is not worded as TALLRec's book prompts are")
    history = [RatedItem(item, True) for item in _mentioned(read["liked"])]
    history += [RatedItem(item, False) for item in _mentioned(read["disliked"])]
    return Sample(f"book-{part}-{location.line - 1:05}", tuple(history), _book(read["target"]), _ANSWERS[answer])


def _text(prompt: Any, field: str) -> str:
    value = prompt.get(field) if isinstance(prompt, dict) else None
    return value if isinstance(value, str) else ""


def _mentioned(listed: str) -> Iterator[Item]:
    """The books of one preference line. A piece that names no author yet is a title that itself holds `, "`."""
    begun = ""
    for piece in re.split(r', (?=")', listed) if listed else ():
        begun += piece
        if _BY in begun:
            yield _book(begun)
            begun = ""
        else:
            begun += ", "
    if begun:
        raise MalformedRow("names a book without an author")


def _book(mention: str) -> Item:
    title, by, author = mention.removeprefix('"').rpartition(_BY)
    if not by:
        raise MalformedRow("names a book without an author")
    digest = hashlib.blake2b(json.dumps([title, author]).encode(), digest_size=_ID_BYTES)
    return Item(f"book-{digest.hexdigest()}", as_title(title), author=as_author(author))

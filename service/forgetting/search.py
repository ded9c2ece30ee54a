"""Looking for texts in every file of a folder, so that what is found is a trace and what is not found is evidence.

A text counts where it stands between delimiters; and anywhere, if no value that may stay holds it. In the pages of an SQLite
file values stand side by side without delimiters: there a text counts unless the same few bytes around it also stand in
a copy that holds nothing but what the database holds now.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.data.traces import stands_alone

_SQLITE = b"SQLite format 3\0"
_AROUND = 3, 2  # bytes before and after: within one record of any of the ledger's tables
_NEIGHBORS = 8  # bytes; two characters in any encoding
# Any two bytes of numbers are a character of UTF-16, mostly a letter of some script.
_NO_TEXT = {"utf-8": re.compile("\ufffd"), **dict.fromkeys(("utf-16-le", "utf-16-be"), re.compile("[^\0-\u024f]"))}
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[bfnrt])$")  # of JSON, before a text

Image = Callable[[], bytes]  # of a database: what it holds now, and nothing else


@dataclass(frozen=True, slots=True)
class FileSearch:
    """How much was read, and which files hold (in their content or name) what was looked for."""

    files: int
    bytes: int
    hits: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """One way in which a text may lie in a file. `loose`: it counts also inside a longer text."""

    content: bytes
    encoding: str
    loose: bool


def forms_of(text: str, loose: bool) -> list[Form]:
    """UTF-8, UTF-16 in both byte orders, and as JSON escapes it."""
    escaped = [json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)]
    ways = [(text, "utf-8"), (text, "utf-16-le"), (text, "utf-16-be"), *((way, "utf-8") for way in escaped)]
    contents = {(way.encode(encoding), encoding): None for way, encoding in ways}
    return [Form(content, encoding, loose) for content, encoding in contents]


def files_with(root: Path, forms: Sequence[Form], database: Path | None, image: Image) -> FileSearch:
    """Search every file under `root`, with its path relative to it. `database` is the SQLite file, if there is one, and
    `image` makes a copy of it that holds only its present rows.
    """
    files, read, hits = 0, 0, []
    pages = _Pages(image)
    for path in sorted(root.rglob("*")):
        try:
            if path.is_symlink() or not path.is_file():
                continue
            size, hit = _search(path, forms, pages, database is not None and _is_of(database, path))
        except FileNotFoundError:
            continue  # others may erase meanwhile, which is no loss
        files, read = files + 1, read + size
        name = str(path.relative_to(root)).replace(".", " ").encode()
        if hit or any(_counts(name, at, form) for form in forms for at in _positions(name, form.content)):
            hits.append(path)
    return FileSearch(files, read, tuple(hits))


def contents_with(contents: Iterable[tuple[Path, bytes]], forms: Sequence[Form]) -> FileSearch:
    """Search files that lie on no disk of this machine, with their paths. None of them is a database."""
    files, read, hits = 0, 0, []
    for path, content in contents:
        files, read = files + 1, read + len(content)
        name = str(path).replace(".", " ").encode()
        if any(
            _counts(text, at, form)
            for text in (content, name)
            for form in forms
            for at in _positions(text, form.content)
        ):
            hits.append(path)
    return FileSearch(files, read, tuple(hits))


class _Pages:
    """What stands around a text in a database that holds nothing else than it should. The copy is made when it is needed."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._content: bytes | None = None
        self._around: dict[bytes, frozenset[bytes]] = {}

    def explains(self, form: bytes, around: bytes) -> bool:
        if self._content is None:
            self._content = self._image()
        if form not in self._around:
            self._around[form] = frozenset(_around(self._content, at, form) for at in _positions(self._content, form))
        return around in self._around[form]


def _is_of(database: Path, path: Path) -> bool:
    return path.absolute().parent == database.parent and path.name.startswith(database.name)


def _search(path: Path, forms: Sequence[Form], pages: _Pages, in_pages: bool) -> tuple[int, bool]:
    size = path.stat().st_size
    if not size:
        return 0, False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        in_pages = in_pages or content[: len(_SQLITE)] == _SQLITE  # a copy that somebody has made
        for form in forms:
            for at in _positions(content, form.content):
                if in_pages:
                    counts = not pages.explains(form.content, _around(content, at, form.content))
                else:
                    counts = _counts(content, at, form)
                if counts:
                    return size, True
    return size, False


def _positions(content: bytes | mmap.mmap, form: bytes) -> Iterator[int]:
    at = content.find(form)
    while at >= 0:
        yield at
        at = content.find(form, at + 1)


def _around(content: bytes | mmap.mmap, at: int, form: bytes) -> bytes:
    before, after = _AROUND
    return bytes(content[max(0, at - before) : at + len(form) + after])


def _counts(content: bytes | mmap.mmap, at: int, form: Form) -> bool:
    if form.loose:
        return True
    before = bytes(content[max(0, at - _NEIGHBORS) : at])
    end = at + len(form.content)
    after = bytes(content[end : end + _NEIGHBORS])
    return stands_alone(_last(before, form.encoding), _first(after, form.encoding))


def _first(content: bytes, encoding: str) -> str:
    """The first two characters. Bytes that are no text delimit."""
    return _NO_TEXT[encoding].sub(" ", content.decode(encoding, "replace"))[:2]


def _last(content: bytes, encoding: str) -> str:
    if encoding == "utf-8":  # it may begin within a character
        content = content.lstrip(bytes(range(0x80, 0xC0)))
    characters = _NO_TEXT[encoding].sub(" ", content.decode(encoding, "replace"))
    return _ESCAPED.sub(_unescaped, characters)[-2:]


def _unescaped(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else " "

"""Finding and opening files that may be packed: plain, `.xz` or `.gz`."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from service.errors import ImportRefused

_PACKED = (".xz", ".gz")


def find_file(folder: Path, name: str) -> Path | None:
    """The file of this name, plain or packed; None if there is neither."""
    return next((path for suffix in ("", *_PACKED) if (path := folder / (name + suffix)).is_file()), None)


def format_suffix(path: Path) -> str:
    """The suffix that tells the format: `.csv` of `a.csv` and of `a.csv.xz`."""
    return Path(path.stem).suffix if path.suffix in _PACKED else path.suffix


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """The unpacked bytes. Raises ImportRefused, also from the block, for a file that cannot be read or is damaged."""
    try:
        with _unpacked(path) as file:
            yield file
    except (lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise ImportRefused(f"{path.name} cannot be read or is damaged ({type(error).__name__})") from error


def _unpacked(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return lzma.open(path)
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[IO[str]]:
    """The unpacked text, with line ends as they are.

    Bytes that are not of the encoding become lone surrogates, which every field refuses: one bad row, not a bad file.
    """
    with open_binary(path) as file, io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="") as text:
        yield text

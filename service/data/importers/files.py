"""Finding and opening files that may be packed: plain, `.xz`, `.gz`, `.bz2` or `.zst`, in upper or lower case."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from service.errors import ImportRefused

PACKED = (".xz", ".gz", ".bz2", ".zst")
PACKED_NAMES = ", ".join(PACKED[:-1]) + f" or {PACKED[-1]}"

_AT_ONCE = 1 << 20  # bytes
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Watch = Callable[[int], None]


def find_file(folder: Path, name: str) -> Path | None:
    """The file of this name, plain or packed, in whatever case; None if there is none."""
    exact = (folder / (name + suffix) for suffix in ("", *PACKED))
    if found := next((path for path in exact if path.is_file()), None):
        return found
    wanted = {(name + suffix).lower(): rank for rank, suffix in enumerate(("", *PACKED))}
    parent = (folder / name).parent
    others = parent.iterdir() if parent.is_dir() else ()
    near = [path for path in others if str(path.relative_to(folder)).lower() in wanted and path.is_file()]
    return min(near, key=lambda path: (wanted[str(path.relative_to(folder)).lower()], path.name), default=None)


def format_suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case: `.csv` of `a.csv`, and of `A.CSV.xz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED else suffix


@contextmanager
def open_binary(path: Path, watch: Watch | None = None) -> Iterator[IO[bytes]]:
    """The unpacked bytes. `watch` is told how many (packed) bytes were read.

    Raises ImportRefused, also from the block, for a file that cannot be read or is damaged.
    """
    try:
        with (
            _Watched(path, watch) as raw,
            io.BufferedReader(raw) as packed,
            _unpacked(path, cast(IO[bytes], packed)) as file,
        ):
            yield file
    except (lzma.LZMAError, zlib.error, EOFError, OSError, pa.ArrowException) as error:
        raise ImportRefused(f"{path.name} cannot be read or is damaged ({type(error).__name__})") from error


@contextmanager
def open_text(path: Path, fallback: str | None = None, watch: Watch | None = None) -> Iterator[IO[str]]:
    """The unpacked text, with line ends as they are: UTF-8 where all of it is, or else `fallback`.

    Without a fallback, bytes that are not UTF-8 become lone surrogates, which every field refuses: one bad row, not a bad
    file. A byte-order mark decides (UTF-8 or UTF-16) and is no part of the text. Raises ImportRefused as `open_binary` does.
    """
    encoding = _encoding(path, fallback)
    with (
        open_binary(path, watch) as file,
        io.TextIOWrapper(cast(Any, file), encoding, errors="surrogateescape", newline="") as text,
    ):
        yield text


def _encoding(path: Path, fallback: str | None) -> str:
    with open_binary(path) as file:
        first = file.read(_AT_ONCE if fallback else 4)
        if first.startswith(_UTF_16):
            return "utf-16"
        if fallback is None:
            return "utf-8-sig"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while first:
                decoder.decode(first)
                first = file.read(_AT_ONCE)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return fallback
    return "utf-8-sig"


def _unpacked(path: Path, packed: IO[bytes]) -> IO[bytes]:
    match path.suffix.lower():
        case ".xz":
            return lzma.open(packed)
        case ".gz":
            return cast(IO[bytes], gzip.open(packed))
        case ".bz2":
            return bz2.open(packed)
        case ".zst":
            return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd"))
        case _:
            return packed


class _Watched(io.FileIO):
    """A file that tells what is read of it."""

    def __init__(self, path: Path, watch: Watch | None) -> None:
        super().__init__(path)
        self._watch = watch

    def readinto(self, buffer: Any) -> int | None:
        read = super().readinto(buffer)
        if self._watch is not None and read:
            self._watch(read)
        return read

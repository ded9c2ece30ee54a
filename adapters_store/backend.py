"""What a store asks of the place where its bytes lie. A folder (`folder`) and a bucket (`bucket`) both meet it.

Paths are relative and have slashes: `adapters/<digest>/<file>`. A directory of files comes and goes as a whole and never
changes in between; a record is a single file that may be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

DIRECTORIES = ("adapters", "memory", "generations")
PLAIN, ENCRYPTED = 1, 2  # what `FORMAT` states of a store

Signature = tuple[tuple[object, ...], ...]  # of a directory and its files: whatever changes when somebody writes to one
Swap = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Remains:
    """What an object store keeps beside what it shows: all zero once everything else is really erased."""

    versions: int  # earlier versions of objects, and markers of deletions
    uploads: int  # multipart uploads that nobody completed


@dataclass(frozen=True, slots=True)
class ByteSearch:
    """How much was read, and which files hold (in their content or name) what was looked for."""

    files: int
    bytes: int
    hits: tuple[Path, ...]


class Listing(Protocol):
    """What lies in a place: of a bucket as of one moment, so that many questions cost one request."""

    def names(self, directory: str) -> list[str]:
        """The names of all entries of a directory, sorted."""
        ...

    def check_names(self, directory: str, names: Collection[str], what: str) -> None:
        """Raises `MissingArtifact` or `DamagedArtifact` unless a directory holds exactly files of these names."""
        ...

    def signature(self, directory: str) -> Signature:
        """What the place says of a directory's files, cheap to ask. Raises `MissingArtifact` or `DamagedArtifact`."""
        ...

    def size(self, directory: str) -> int:
        """Bytes of all files of a directory."""
        ...

    def abandoned(self) -> int:
        """How much lies there that no process is working on and nobody is shown."""
        ...


class Backend(Listing, Protocol):
    """Where a store lies. Safe for many processes and threads at once; whatever fails is a `StoreFailure` that says why."""

    @property
    def format(self) -> int:
        """What a store here states in `FORMAT`: `PLAIN` or `ENCRYPTED`."""
        ...

    @property
    def folder(self) -> Path | None:
        """The folder of this machine that it is; None: it is elsewhere."""
        ...

    @property
    def bytes_a_look(self) -> int:
        """How much may be read again every few seconds although nothing seems to have changed."""
        ...

    def look(self) -> Listing: ...

    def reader_of(self, directory: str) -> Backend:
        """What another process is given to read this directory."""
        ...

    def has(self, path: str) -> bool:
        """Whether anything is there, of whatever kind."""
        ...

    def read(self, path: str, what: str, digest: str | None = None) -> bytes:
        """Return a file's bytes. With `digest`, the SHA-256 that they should have, they may come out of a cache.

        Raises `DamagedArtifact` if its directory is there without it, `MissingArtifact` if that is not there either.
        """
        ...

    def chunks(self, path: str, what: str) -> Iterator[bytes]:
        """Read a file piece by piece, and never out of a cache. Raises as `read`."""
        ...

    def put(self, directory: str, files: Mapping[str, bytes], what: str) -> None:
        """Store a directory of these files, in this order: the last one is what makes it whole.

        If one of the same files is there by then, that one stays; any other is replaced.
        """
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write a record, whatever was there."""
        ...

    def write_once(self, path: str, content: bytes) -> None:
        """Write a record unless there is one."""
        ...

    def swap(self, path: str) -> Swap:
        """Return what writes a record, atomically, in the place of what is there now."""
        ...

    def remove(self, path: str) -> bool:
        """Erase a directory or a file, at once for all readers, and all that is kept of it; whether there was one."""
        ...

    def erase_abandoned(self) -> int:
        """Erase what `abandoned` counts, and return how much there was."""
        ...

    def remains(self) -> Remains | None:
        """What is kept beside what is shown; None of a place that keeps nothing, as a folder."""
        ...

    def keys_left(self) -> int | None:
        """How many keys there are of directories that are not there; None of a place that encrypts nothing."""
        ...

    def forget_except(self, directories: Collection[str]) -> None:
        """Let the cache hold nothing but files of these directories."""
        ...

    def contents(self) -> Iterator[tuple[Path, bytes]]:
        """Every file with its path, of objects every version."""
        ...

    def search(self, needles: Sequence[bytes]) -> ByteSearch:
        """Search every file, and its path, for any of `needles`."""
        ...

"""Artifacts of one kind, each a directory of files that is named by a digest of what it was made from.

    <kind>/<digest>/       the artifact's files and SHA256SUMS
    <kind>/<digest>.note   one line beside an artifact that no published manifest states yet

Where they lie, and how they come and go there, is the backend's business.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters_store.backend import ENCRYPTED, Backend, Listing
from adapters_store.files import DamagedArtifact, MissingArtifact, StoreFailure, check_digest, failures

SUMS = "SHA256SUMS"
DIGEST = re.compile(r"[0-9a-f]{64}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")

_NOTE = ".note"


@dataclass(frozen=True, slots=True)
class StatedArtifact:
    """A directory, and the SHA-256 that a manifest states of each file in it. Any process can read it."""

    backend: Backend
    directory: str
    what: str  # how messages call it
    files: Mapping[str, str]

    def __reduce__(self) -> tuple[type[StatedArtifact], tuple[Backend, str, str, Mapping[str, str]]]:
        # Another process gets what reads this directory: of an encrypted store its key, and no other.
        return StatedArtifact, (self.backend.reader_of(self.directory), self.directory, self.what, self.files)

    @property
    def digest(self) -> str:
        """The digest that names it."""
        return self.directory.rpartition("/")[2]

    def read(self) -> dict[str, bytes]:
        """Return the content of every stated file, each verified as it was read.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file differs, is missing, linked or not stated.
        """
        sums = with_sums(self.files)
        self.backend.check_names(self.directory, sums, self.what)
        content = {}
        for name, expected in sums.items():
            content[name] = self.backend.read(f"{self.directory}/{name}", self.what, expected)
            check_digest(name, hashlib.sha256(content[name]).hexdigest(), expected, self.what)
        return {name: content[name] for name in self.files}


class Artifacts:
    """All artifacts of one kind, immutable; `kind` is how messages call one.

    Which bytes an artifact must have is stated by a manifest: its own `SHA256SUMS` says so too, for people and their tools,
    but whoever changes a file can change that one with it.
    """

    def __init__(self, backend: Backend, directory: str, kind: str) -> None:
        self.kind = kind
        self._backend, self._directory = backend, directory

    def digests(self, listing: Listing | None = None) -> list[str]:
        """Return the digests of all that are present, sorted; they are not verified here."""
        return digests_among(self._names(listing))

    def strays(self, listing: Listing | None = None) -> list[str]:
        """Return the names of entries that are neither an artifact nor an artifact's note, sorted."""
        return [name for name in self._names(listing) if not DIGEST.fullmatch(name.removesuffix(_NOTE))]

    def noted(self, listing: Listing | None = None) -> list[str]:
        """Return the names of those beside which a note lies."""
        return [name.removesuffix(_NOTE) for name in self._names(listing) if name.endswith(_NOTE)]

    def has(self, digest: str) -> bool:
        """Return whether anything is present under this digest; it is not verified here."""
        return self._backend.has(self.directory(digest))

    def directory(self, digest: str) -> str:
        """Return where in the store an artifact lies or would lie; nothing is verified here."""
        return f"{self._directory}/{checked_digest(digest)}"

    def path(self, digest: str) -> Path:
        """Return the folder of an artifact whose files are as its own `SHA256SUMS` lists them; says nothing of their origin.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file is torn, missing, linked or not listed; `StoreFailure` of a
        store that is no folder, or is encrypted.
        """
        self.sums(digest)
        if self._backend.format == ENCRYPTED:
            raise StoreFailure("the store is encrypted, so no folder holds its files; read what it holds instead")
        return local_folder(self._backend) / self.directory(digest)

    def sums(self, digest: str) -> dict[str, str]:
        """Return `{file name: SHA-256}` of an artifact as it lists them itself. Raises as `path` does."""
        directory, what = self.directory(digest), f"{self.kind} {digest}"
        sums = _parse_sums(self._backend.read(f"{directory}/{SUMS}", what), what)
        verify(self._backend, directory, sums, {SUMS}, what)
        return sums

    def verify(self, digest: str, stated: Mapping[str, str]) -> None:
        """Read every file and compare it with the SHA-256 that is stated of it.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file differs, is missing, linked or not stated.
        """
        verify(self._backend, self.directory(digest), with_sums(stated), (), f"{self.kind} {digest}")

    def stated(self, digest: str, files: Mapping[str, str]) -> StatedArtifact:
        """Return an artifact as a manifest states it, to be read here or in another process."""
        return StatedArtifact(self._backend, self.directory(digest), f"{self.kind} {digest}", files)

    def add(self, digest: str, files: Mapping[str, bytes]) -> dict[str, str]:
        """Store an artifact of these files and return their SHA-256. Nobody sees it before it is whole.

        If one of the same files is there by then, that one stays; any other is replaced. Raises `StoreFailure`.
        """
        if not files:
            raise StoreFailure("an artifact without files cannot be stored")
        for name in files:
            if not FILE_NAME.fullmatch(name) or name == SUMS:
                raise StoreFailure(f"an artifact holds plain files only, and {name!r} is none")
        ordered = {name: files[name] for name in sorted(files)}
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in ordered.items()}
        self._backend.put(self.directory(digest), {**ordered, SUMS: _sums_content(sums)}, f"{self.kind} {digest}")
        return sums

    def note(self, digest: str) -> str | None:
        """Return the line that was written beside an artifact, if one was; it is not verified here."""
        try:
            return self._backend.read(self._note(digest), f"note of {self.kind} {digest}").decode("utf-8", "replace")
        except (DamagedArtifact, MissingArtifact):
            return None

    def write_note(self, digest: str, line: str) -> None:
        """Write a line beside an artifact, which goes with it, or when `remove_except` keeps it. Raises `StoreFailure`."""
        self._backend.write(self._note(digest), line.encode())

    def remove(self, digest: str) -> None:
        """Remove an artifact if it is present. Raises `StoreFailure`."""
        with failures(f"remove {self.kind} {digest}"):
            self._backend.remove(self._note(digest))
            self._backend.remove(self.directory(digest))

    def remove_except(self, keep: Collection[str], ahead: Collection[str] = ()) -> tuple[str, ...]:
        """Remove all others, and whatever else lies beside them; return their names. Those made `ahead` keep their notes."""
        return remove_except(self._backend, self._directory, {*keep, *ahead, *(digest + _NOTE for digest in ahead)})

    def _names(self, listing: Listing | None) -> list[str]:
        return (listing or self._backend).names(self._directory)

    def _note(self, digest: str) -> str:
        return f"{self.directory(digest)}{_NOTE}"


def with_sums(stated: Mapping[str, str]) -> dict[str, str]:
    """The stated SHA-256 of an artifact's files, and that of the `SHA256SUMS` which must then lie beside them."""
    return {**stated, SUMS: hashlib.sha256(_sums_content(stated)).hexdigest()}


def verify(
    backend: Backend,
    directory: str,
    sums: Mapping[str, str],
    beside: Collection[str],
    what: str,
    listing: Listing | None = None,
) -> int:
    """Check that a directory holds exactly the files of `sums` (with these SHA-256) and `beside`; return the bytes read.

    Raises `MissingArtifact` or `DamagedArtifact`.
    """
    (listing or backend).check_names(directory, {*sums, *beside}, what)
    read = 0
    for name, stated in sums.items():
        digest = hashlib.sha256()
        for chunk in backend.chunks(f"{directory}/{name}", what):
            digest.update(chunk)
            read += len(chunk)
        check_digest(name, digest.hexdigest(), stated, what)
    return read


def remove_except(backend: Backend, directory: str, keep: Collection[str]) -> tuple[str, ...]:
    """Remove every other entry of a directory; return their names."""
    others = sorted(set(backend.names(directory)).difference(keep))
    return tuple(name for name in others if backend.remove(f"{directory}/{name}"))


def local_folder(backend: Backend) -> Path:
    """The folder that a store is. Raises `StoreFailure` of one that is elsewhere."""
    if backend.folder is None:
        raise StoreFailure("the store lies in a bucket, so there is no folder of it; read what it holds instead")
    return backend.folder


def checked_digest(digest: str) -> str:
    """The digest itself. Raises `StoreFailure` for anything else."""
    if not DIGEST.fullmatch(digest):
        raise StoreFailure(f"{digest[:80]!r} is not a digest; expected 64 lower-case hexadecimal digits")
    return digest


def digests_among(names: Iterable[str]) -> list[str]:
    """Those of the names that are digests, in their order."""
    return [name for name in names if DIGEST.fullmatch(name)]


def _sums_content(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def _parse_sums(content: bytes, what: str) -> dict[str, str]:
    lines = content.decode("utf-8", "replace").split("\n")
    pairs = [line.split("  ", 1) for line in lines[:-1]]
    sound = lines[-1] == "" and all(len(pair) == 2 and DIGEST.fullmatch(pair[0]) for pair in pairs)
    if not pairs or not sound:
        raise DamagedArtifact(f"{what}: {SUMS} is torn; build again")
    return {name: digest for digest, name in pairs}

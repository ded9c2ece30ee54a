"""Whether a store holds what a generation's manifest states, all of it and nothing else.

The first look of a process reads every file. A later one reads a file again only if its inode, size or times have changed,
and beside that some bytes of all files in turn: so what changed without leaving a trace in the times is found too, one round
later.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters_store.artifacts import with_sums
from adapters_store.files import DamagedArtifact, MissingArtifact, StoreFailure, opened, verify_files
from adapters_store.store import ACTIVE, MANIFEST, Store, StoredGeneration

BYTES_A_LOOK = 2**24  # read again although nothing seems to have changed
KINDS = ("adapter", "memory", "generation", "active", "stray", "load")  # the last: one that could not be loaded
_CHUNK = 2**20  # bytes

Signature = tuple[tuple[object, ...], ...]  # of a folder and its entries: names, inodes, sizes, times
Stated = tuple[str, Path, Mapping[str, str]]  # kind, folder, SHA-256 of each file in it


@dataclass(frozen=True, slots=True)
class StoreFault:
    """Something in the store is not what the manifest states. `kind` is one of `KINDS`; `name` a digest or an entry."""

    kind: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look found, and how much it read. `leftovers` are whole artifacts that nothing names, as a crash leaves them."""

    faults: tuple[StoreFault, ...]
    leftovers: int
    files: int  # that were compared, by reading or by what is known of them
    bytes_read: int
    manifest: Mapping[str, Any] | None  # of the generation, if it is sound

    @property
    def clean(self) -> bool:
        return not self.faults and not self.leftovers


def signature_of(folder: Path) -> Signature:
    """What the file system says of a folder's files, cheap to read and changed by whoever writes to one.

    The folder's inode, and of each entry its name, mode, inode, size in bytes and times of change in nanoseconds;
    symbolic links are not followed. Raises `DamagedArtifact` if the path is not a folder.
    """
    at = os.lstat(folder)
    if not stat.S_ISDIR(at.st_mode):
        raise DamagedArtifact(f"{folder.name} is no folder; build again")
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    of_entries = sorted((n, s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for n, s in found)
    return ((at.st_ino,), *of_entries)


class Inspector:
    """Looks at one store again and again. Not for several threads at once."""

    def __init__(
        self,
        store: Store,
        bytes_a_look: int = BYTES_A_LOOK,
        signature: Callable[[Path], Signature] | None = None,
    ) -> None:
        """`signature` is what the file system says of a folder's files, by which they seem unchanged."""
        self._store, self._signature = store, signature or signature_of
        self._bytes_a_look = bytes_a_look
        # Of folders whose files were read and found right: how they looked then, and what they were compared with.
        self._known: dict[Path, tuple[Signature, Mapping[str, str]]] = {}
        self._generation: StoredGeneration | None = None
        self._round: Iterator[int] = iter(())
        self._read = 0

    def look(self, generation_id: str, whole: bool = False, ahead: Collection[str] = ()) -> Findings:
        """Compare the store with what this generation states; read everything if it is to be `whole`.

        Artifacts that were made `ahead` of the next generation are no leftovers.
        Raises:
            StoreFailure: the store cannot be read.
        """
        self._read = 0
        if whole:
            self._known = {}
        if whole or self._generation is None or self._generation.id != generation_id:
            self._generation, self._round = None, iter(())
        faults = [*self._active(), *self._strays()]
        try:
            stated = self._stated(generation_id)
        except (DamagedArtifact, MissingArtifact) as failure:
            self._generation = None
            faults.append(StoreFault("generation", generation_id, str(failure)))
            return Findings(tuple(faults), self._leftovers(None, ahead), 0, self._read, None)
        self._read_some(stated)
        faults += [fault for each in stated for fault in self._compare(each)]
        self._known = {folder: self._known[folder] for _, folder, _ in stated if folder in self._known}
        files = sum(len(sums) for _, _, sums in stated) + 1
        manifest = None if self._generation is None else self._generation.manifest
        return Findings(tuple(faults), self._leftovers(stated, ahead), files, self._read, manifest)

    def _active(self) -> Iterator[StoreFault]:
        try:
            if self._store.active() is None:
                yield StoreFault("active", ACTIVE, f"{ACTIVE} is missing; build again")
        except DamagedArtifact as failure:
            yield StoreFault("active", ACTIVE, str(failure))

    def _strays(self) -> Iterator[StoreFault]:
        for artifacts in self._store.kinds():
            for name in artifacts.strays():
                yield StoreFault("stray", name, f"{name!r} lies among the {artifacts.kind} folders and is none")
        for name in self._store.generation_strays():
            yield StoreFault("stray", name, f"{name!r} lies among the generations and is none")

    def _stated(self, generation_id: str) -> list[Stated]:
        if self._generation is None:
            self._generation = self._store.generation(generation_id)  # reads all of its files
            self._read += sum(path.stat().st_size for path in self._generation.path.iterdir())
            sums = {**self._generation.manifest["files"], MANIFEST: generation_id}
            self._known[self._generation.path] = self._signature(self._generation.path), sums
        generation = self._generation
        return [
            ("generation", generation.path, {**generation.manifest["files"], MANIFEST: generation.id}),
            *(
                (artifacts.kind, artifacts.folder(digest), with_sums(files))
                for artifacts, stated in zip(self._store.kinds(), generation.artifacts(), strict=True)
                for digest, files in stated.items()
            ),
        ]

    def _compare(self, stated: Stated) -> Iterator[StoreFault]:
        kind, folder, sums = stated
        what = f"{kind} {folder.name}"
        try:
            seen = self._signature(folder)
            if self._known.get(folder) != (seen, sums):
                self._known.pop(folder, None)
                verify_files(folder, sums, (), what)
                self._read += sum((folder / name).stat().st_size for name in sums)
                self._known[folder] = seen, sums
        except FileNotFoundError:
            yield StoreFault(kind, folder.name, f"the store holds no {what}; build again")
        except (DamagedArtifact, MissingArtifact) as failure:
            yield StoreFault(kind, folder.name, str(failure))
        except OSError as error:
            raise StoreFailure(f"cannot look at {what}: {error.strerror or error}. Check the store's disk.") from error

    def _read_some(self, stated: list[Stated]) -> None:
        """Read the next bytes of all that is known; what is not as it should be is known no more, and so compared again."""
        budget = self._bytes_a_look
        while budget > 0:
            size = next(self._round, None)
            if size is None:
                self._round = self._transaction([each for each in stated if each[1] in self._known])
                return
            budget -= size
            self._read += size

    def _transaction(self, stated: list[Stated]) -> Iterator[int]:
        for kind, folder, sums in stated:
            for name, expected in sums.items():
                digest = hashlib.sha256()
                try:
                    with opened(folder / name, f"{kind} {folder.name}") as file:
                        while chunk := file.read(_CHUNK):
                            digest.update(chunk)
                            yield len(chunk)
                except StoreFailure:
                    pass  # then its digest is wrong, and whoever compares says why
                if digest.hexdigest() != expected:
                    self._known.pop(folder, None)

    def _leftovers(self, stated: list[Stated] | None, ahead: Collection[str]) -> int:
        named = {*ahead, *(folder.name for _, folder, _ in stated or ())}
        present = [digest for artifacts in self._store.kinds() for digest in artifacts.digests()]
        notes = len({digest for artifacts in self._store.kinds() for digest in artifacts.noted()}.difference(ahead))
        there = [*present, *self._store.generations()]
        another = self._generation is not None and self._active_or_none() not in (None, self._generation.id)
        return len(set(there) - named) + notes + another + self._store.abandoned()

    def _active_or_none(self) -> str | None:
        try:
            return self._store.active()
        except DamagedArtifact:
            return None

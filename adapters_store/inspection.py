"""Whether a store holds what a generation's manifest states, all of it and nothing else.

The first look of a process reads every file. A later one reads a file again only if its inode, size or times have changed,
and beside that some bytes of all files in turn: so what changed without leaving a trace in the times is found too, one round
later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapters_store.artifacts import verify, with_sums
from adapters_store.backend import Listing, Signature
from adapters_store.files import DamagedArtifact, MissingArtifact, StoreFailure
from adapters_store.store import ACTIVE, MANIFEST, Store, StoredGeneration

KINDS = ("adapter", "memory", "generation", "active", "stray", "load")  # the last: one that could not be loaded

Stated = tuple[str, str, Mapping[str, str]]  # kind, directory, SHA-256 of each file in it


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


class Inspector:
    """Looks at one store again and again. Not for several threads at once."""

    def __init__(
        self,
        store: Store,
        bytes_a_look: int | None = None,
        signature: Callable[[str], Signature] | None = None,
    ) -> None:
        """`bytes_a_look` are read again although nothing seems to have changed; by default as many as are cheap there.

        `signature` is what the place says of a directory's files, by which they seem unchanged."""
        self._store, self._signature = store, signature
        self._bytes_a_look = store.backend.bytes_a_look if bytes_a_look is None else bytes_a_look
        # Of directories whose files were read and found right: how they looked then, and what they were compared with.
        self._known: dict[str, tuple[Signature, Mapping[str, str]]] = {}
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
        listing = self._store.look()
        active, faults = self._active()
        faults += self._strays(listing)
        try:
            stated = self._stated(generation_id, listing)
        except (DamagedArtifact, MissingArtifact) as failure:
            self._generation = None
            faults.append(StoreFault("generation", generation_id, str(failure)))
            return Findings(tuple(faults), self._leftovers(None, listing, active, ahead), 0, self._read, None)
        self._read_some(stated)
        faults += [fault for each in stated for fault in self._compare(each, listing)]
        self._known = {directory: self._known[directory] for _, directory, _ in stated if directory in self._known}
        files = sum(len(sums) for _, _, sums in stated) + 1
        manifest = None if self._generation is None else self._generation.manifest
        return Findings(tuple(faults), self._leftovers(stated, listing, active, ahead), files, self._read, manifest)

    def _active(self) -> tuple[str | None, list[StoreFault]]:
        try:
            active = self._store.active()
        except DamagedArtifact as failure:
            return None, [StoreFault("active", ACTIVE, str(failure))]
        return active, [] if active else [StoreFault("active", ACTIVE, f"{ACTIVE} is missing; build again")]

    def _strays(self, listing: Listing) -> Iterator[StoreFault]:
        for artifacts in self._store.kinds():
            for name in artifacts.strays(listing):
                yield StoreFault("stray", name, f"{name!r} lies among the {artifacts.kind} folders and is none")
        for name in self._store.generation_strays(listing):
            yield StoreFault("stray", name, f"{name!r} lies among the generations and is none")

    def _stated(self, generation_id: str, listing: Listing) -> list[Stated]:
        if self._generation is None:
            self._generation = self._store.generation(generation_id)  # reads all of its files
            directory = self._generation.directory
            self._read += listing.size(directory)
            sums = {**self._generation.manifest["files"], MANIFEST: generation_id}
            self._known[directory] = self._seen(directory, listing), sums
        generation = self._generation
        return [
            ("generation", generation.directory, {**generation.manifest["files"], MANIFEST: generation.id}),
            *(
                (artifacts.kind, artifacts.directory(digest), with_sums(files))
                for artifacts, stated in zip(self._store.kinds(), generation.artifacts(), strict=True)
                for digest, files in stated.items()
            ),
        ]

    def _seen(self, directory: str, listing: Listing) -> Signature:
        return listing.signature(directory) if self._signature is None else self._signature(directory)

    def _compare(self, stated: Stated, listing: Listing) -> Iterator[StoreFault]:
        kind, directory, sums = stated
        what = f"{kind} {_name(directory)}"
        try:
            seen = self._seen(directory, listing)
            if self._known.get(directory) != (seen, sums):
                self._known.pop(directory, None)
                self._read += verify(self._store.backend, directory, sums, (), what, listing)
                self._known[directory] = seen, sums
        except MissingArtifact:
            yield StoreFault(kind, _name(directory), f"the store holds no {what}; build again")
        except DamagedArtifact as failure:
            yield StoreFault(kind, _name(directory), str(failure))
        except OSError as error:
            raise StoreFailure(f"cannot look at {what}: {error.strerror or error}. Check the store's disk.") from error

    def _read_some(self, stated: list[Stated]) -> None:
        """Read the next bytes of all that is known; what is not as it should be is known no more, and so compared again."""
        budget = self._bytes_a_look
        while budget > 0:
            size = next(self._round, None)
            if size is None:
                self._round = self._rounds([each for each in stated if each[1] in self._known])
                return
            budget -= size
            self._read += size

    def _rounds(self, stated: list[Stated]) -> Iterator[int]:
        for kind, directory, sums in stated:
            for name, expected in sums.items():
                digest = hashlib.sha256()
                try:
                    for chunk in self._store.backend.chunks(f"{directory}/{name}", f"{kind} {_name(directory)}"):
                        digest.update(chunk)
                        yield len(chunk)
                except StoreFailure:
                    pass  # then its digest is wrong, and whoever compares says why
                if digest.hexdigest() != expected:
                    self._known.pop(directory, None)

    def _leftovers(
        self, stated: list[Stated] | None, listing: Listing, active: str | None, ahead: Collection[str]
    ) -> int:
        named = {*ahead, *(_name(directory) for _, directory, _ in stated or ())}
        present = [digest for artifacts in self._store.kinds() for digest in artifacts.digests(listing)]
        noted = {digest for artifacts in self._store.kinds() for digest in artifacts.noted(listing)}
        notes = len(noted.difference(ahead))
        there = [*present, *self._store.generations(listing)]
        another = self._generation is not None and active not in (None, self._generation.id)
        return len(set(there) - named) + notes + another + listing.abandoned()


def _name(directory: str) -> str:
    return directory.rpartition("/")[2]

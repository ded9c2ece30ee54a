"""Adapters, memories and generations. The authority over every file is the manifest whose digest names a generation.

    adapters/<digest>/     one adapter's files and SHA256SUMS
    memory/<digest>/       one memory's files and SHA256SUMS
    generations/<id>/      manifest.json, whose SHA-256 is the id, and the files that it names
    ACTIVE                 the id of the published generation
    FORMAT                 the number of this form of the store: 1, or 2 if it is encrypted

It lies in a folder or in a bucket, plain or encrypted: `adapters_store/backend.py` says what is asked of each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters_store.artifacts import (
    DIGEST,
    FILE_NAME,
    Artifacts,
    checked_digest,
    digests_among,
    local_folder,
    remove_except,
    verify,
)
from adapters_store.backend import DIRECTORIES, ENCRYPTED, PLAIN, Backend, ByteSearch, Listing, Remains
from adapters_store.files import DamagedArtifact, MissingArtifact, StoreFailure, failures
from adapters_store.folder import Folder

_ADAPTERS, _MEMORIES, _GENERATIONS = DIRECTORIES
MANIFEST = "manifest.json"
ACTIVE = "ACTIVE"
FORMAT = "FORMAT"
_OTHER_FORM = {  # of what a store was to be -> what it is instead
    ENCRYPTED: "the store is not encrypted, and nothing is encrypted in its place: name an empty folder or prefix in "
    "LETHE_STORE_URL, run `lethe build`, which makes the same generation there, and then erase the old store",
    PLAIN: "the store is encrypted: set LETHE_STORE_ENCRYPTION=per-artifact, or name an empty folder or prefix in "
    "LETHE_STORE_URL and run `lethe build`, which makes the same generation there",
}


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """A generation whose files were all verified. `manifest["files"]` maps each file's name to its SHA-256."""

    id: str
    manifest: dict[str, Any]
    backend: Backend
    directory: str

    def artifacts(self) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
        """Return what the manifest states of the files of adapters and of memories: `{digest: {file name: SHA-256}}`.

        Raises `DamagedArtifact` if it states none, as of a generation that an older version made.
        """
        try:
            adapters, memories = (
                {artifact["digest"]: artifact["files"] for artifact in self.manifest.get(kind, ())}
                for kind in ("adapters", "memories")
            )
        except (KeyError, TypeError):
            raise DamagedArtifact(
                f"generation {self.id}: its manifest does not state its adapters' files; build again"
            ) from None
        return adapters, memories

    def read(self, name: str) -> bytes:
        """Return the bytes of one file, verified again as they are read.

        Raises `MissingArtifact` if the manifest names no such file, `DamagedArtifact` if its bytes changed.
        """
        if name not in self.manifest["files"]:
            raise MissingArtifact(f"generation {self.id} holds no file named {name!r}")
        expected = self.manifest["files"][name]
        content = self.backend.read(f"{self.directory}/{name}", f"generation {self.id}", expected)
        if hashlib.sha256(content).hexdigest() != expected:
            raise DamagedArtifact(f"generation {self.id}: {name} is not what the manifest states; build again")
        return content


@dataclass(frozen=True, slots=True)
class Erased:
    """What `erase_except` removed: names of adapters, memories and generations, and the number of temporary leftovers."""

    adapters: tuple[str, ...]
    memories: tuple[str, ...]
    generations: tuple[str, ...]
    temporary: int


def canonical_json(value: Any) -> bytes:
    """Return the one form in which a JSON value is hashed and signed: sorted keys, no spaces, UTF-8, a final newline.

    Raises `ValueError` for NaN and infinities, `TypeError` for what is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def digest_of(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


class Store:
    """Immutable, verified artifacts in a folder or in a bucket, safe for many processes at once."""

    def __init__(self, place: Path | Backend) -> None:
        """Open the store at a place (a path: the folder there), creating it if it is not there.

        Raises `StoreFailure`, also if a later version made it.
        """
        self._backend: Backend = Folder(place) if isinstance(place, Path) else place
        self.adapters = Artifacts(self._backend, _ADAPTERS, "adapter")
        self.memories = Artifacts(self._backend, _MEMORIES, "memory")
        self.format = self._check_format()

    @property
    def root(self) -> Path:
        """The folder that the store is. Raises `StoreFailure` of one that is elsewhere."""
        return local_folder(self._backend)

    @property
    def backend(self) -> Backend:
        """The place where it lies."""
        return self._backend

    def kinds(self) -> tuple[Artifacts, ...]:
        """Return all artifacts, by kind."""
        return self.adapters, self.memories

    def generations(self, listing: Listing | None = None) -> list[str]:
        """Return the ids of all generations present, sorted; they are not verified here."""
        return digests_among((listing or self._backend).names(_GENERATIONS))

    def add_generation(self, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
        """Store a generation and return its id: the SHA-256 of its manifest, which states the SHA-256 of each file.

        Storing the same again changes nothing, unless the stored one is damaged: then it is replaced.
        Raises `StoreFailure`; `ValueError` if the manifest has a key "files", or a file's name is not a plain one.
        """
        content = canonical_json(_with_files(manifest, files))
        generation_id = hashlib.sha256(content).hexdigest()
        # The manifest comes last: without it, nobody takes what lies there for a generation.
        self._backend.put(
            self.generation_directory(generation_id), {**files, MANIFEST: content}, f"generation {generation_id}"
        )
        return generation_id

    def generation(self, generation_id: str) -> StoredGeneration:
        """Return a generation with its manifest and every file verified.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file is torn, missing or not listed.
        """
        directory, what = self.generation_directory(generation_id), f"generation {generation_id}"
        content = self._backend.read(f"{directory}/{MANIFEST}", what)
        if hashlib.sha256(content).hexdigest() != generation_id:
            raise DamagedArtifact(f"{what}: its manifest does not have the digest that names it; build again")
        manifest: dict[str, Any] = json.loads(content)
        verify(self._backend, directory, manifest["files"], {MANIFEST}, what)
        return StoredGeneration(generation_id, manifest, self._backend, directory)

    def active(self) -> str | None:
        """Return the id of the published generation, or None. Raises `DamagedArtifact` if `ACTIVE` is torn."""
        if not self._backend.has(ACTIVE):
            return None
        content = self._backend.read(ACTIVE, ACTIVE).decode("ascii", "replace")
        if not DIGEST.fullmatch(content.removesuffix("\n")):
            raise DamagedArtifact(f"{ACTIVE} does not hold a generation's id; publish a generation again")
        return content.removesuffix("\n")

    def publish(self, generation_id: str) -> None:
        """Make a stored generation the served one, atomically. Raises as `generation` does, then nothing changed.

        In a bucket also `StoreFailure` if another process published since this call began.
        """
        swap = self._backend.swap(ACTIVE)
        self.generation(generation_id)
        swap(f"{generation_id}\n".encode())

    def erase_except(
        self,
        adapters: Collection[str],
        memories: Collection[str],
        generations: Collection[str],
        ahead: Collection[str] = (),
    ) -> Erased:
        """Remove every other adapter, memory and generation, and all temporary files that no process is working on.

        Artifacts of either kind that were made `ahead` of a generation that is not there yet stay, with their notes.
        Raises `StoreFailure` if the published generation is not among those to keep: publish another one first.
        """
        if (active := self.active()) is not None and active not in generations:
            raise StoreFailure(f"generation {active} is published and may not be erased; publish another one first")
        with failures("erase old artifacts and generations"):
            return Erased(
                adapters=self.adapters.remove_except(adapters, ahead),
                memories=self.memories.remove_except(memories, ahead),
                generations=remove_except(self._backend, _GENERATIONS, generations),
                temporary=self._backend.erase_abandoned(),
            )

    def abandoned(self) -> int:
        """Return how much lies there that no process is working on and nobody is shown. Raises `StoreFailure`."""
        return self._backend.abandoned()

    def remains(self) -> Remains | None:
        """Return what an object store keeps beside what it shows; None of a folder, which keeps nothing."""
        return self._backend.remains()

    def keys_left(self) -> int | None:
        """Return how many keys there are of directories that are not there; None of a store that is not encrypted."""
        return self._backend.keys_left()

    def look(self) -> Listing:
        """Return what lies in the store, of a bucket as of this moment."""
        return self._backend.look()

    def search(self, needles: Sequence[bytes]) -> ByteSearch:
        """Search every file, and its path, for any of `needles`."""
        return self._backend.search(needles)

    def forget_except(self, adapters: Collection[str], memories: Collection[str], generation: str) -> None:
        """Let this process's cache hold nothing but these. What it never reads again would else stay until it is full."""
        keep = [self.adapters.directory(digest) for digest in adapters]
        keep += [self.memories.directory(digest) for digest in memories]
        self._backend.forget_except([*keep, self.generation_directory(generation)])

    def forget_read(self) -> None:
        """Let this process's cache hold nothing: another process may erase it in the store and could not here."""
        self._backend.forget_except(())

    def generation_strays(self, listing: Listing | None = None) -> list[str]:
        """Return the names of entries among the generations that are none, sorted."""
        return [name for name in (listing or self._backend).names(_GENERATIONS) if not DIGEST.fullmatch(name)]

    def generation_directory(self, generation_id: str) -> str:
        """Return where in the store a generation lies or would lie; nothing is verified here."""
        return f"{_GENERATIONS}/{checked_digest(generation_id)}"

    def _check_format(self) -> int:
        """The number of the store's form, stamped where there is none: what has none yet is of the first form."""
        own = self._backend.format
        if own != PLAIN and self._is_unstamped():
            raise StoreFailure(_OTHER_FORM[own])
        self._backend.write_once(FORMAT, b"%d\n" % own)
        if not self._backend.has(FORMAT):
            return own  # what may only be read is not stamped
        content = self._backend.read(FORMAT, FORMAT).strip()
        if not content.isdigit() or len(content) > 9:
            raise DamagedArtifact(f"{FORMAT} does not hold a number; expected {own}. Restore it from a backup")
        if int(content) > ENCRYPTED:
            raise StoreFailure(
                f"the store has format {int(content)}, made by a later version of Lethe; this one knows formats up to "
                f"{ENCRYPTED}. Start the later version, or move the store away and run `lethe build`, which makes it anew"
            )
        if (int(content) == ENCRYPTED) != (own == ENCRYPTED):
            raise StoreFailure(_OTHER_FORM[own])
        return int(content)

    def _is_unstamped(self) -> bool:
        """Whether something lies here that does not say of which form it is. Another process may be stamping it now."""
        return (
            not self._backend.has(FORMAT)
            and any(self._backend.names(directory) for directory in DIRECTORIES)
            and not self._backend.has(FORMAT)
        )


def _with_files(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    if "files" in manifest:
        raise ValueError('the manifest may not have a key "files": the store writes it')
    for name in files:
        if not FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise ValueError(f"{name!r} is not a plain file name")
    return {**manifest, "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}

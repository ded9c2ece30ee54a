"""Adapters and generations as directories of files, each verified by digest whenever it is read.

    adapters/<digest>/     one adapter's files and SHA256SUMS
    generations/<id>/      manifest.json, whose SHA-256 is the id, and the files that it names
    ACTIVE                 the id of the published generation
    tmp/<pid>-<random>/    work under way, locked by its process

Everything is written under `tmp/`, synced, and renamed: a reader sees a whole artifact or none. Removal renames into
`tmp/` first, for the same reason. A lock on a temporary directory says that a process still works in it; a process
number alone would not, because containers that share the store count their processes separately.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters_store.files import (
    DamagedArtifact,
    MissingArtifact,
    StoreFailure,
    erase,
    failures,
    file_digest,
    is_abandoned,
    lock_directory,
    read,
    renamed,
    sync_directory,
    sync_file,
    verify_files,
    write_synced,
)

SUMS = "SHA256SUMS"
MANIFEST = "manifest.json"
ACTIVE = "ACTIVE"

_DIGEST = re.compile(r"[0-9a-f]{64}")
Signature = tuple[tuple[str, int, int, int, int], ...]  # of a directory's files, by name
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """A generation whose files were all verified. `manifest["files"]` maps each file's name to its SHA-256."""

    id: str
    manifest: dict[str, Any]
    path: Path

    def read(self, name: str) -> bytes:
        """Return the bytes of one file, verified again as they are read.

        Raises `MissingArtifact` if the manifest names no such file, `DamagedArtifact` if its bytes changed.
        """
        if name not in self.manifest["files"]:
            raise MissingArtifact(f"generation {self.id} holds no file named {name!r}")
        content = read(self.path / name, f"generation {self.id}")
        if hashlib.sha256(content).hexdigest() != self.manifest["files"][name]:
            raise DamagedArtifact(f"generation {self.id}: {name} is not what the manifest states; build again")
        return content


@dataclass(frozen=True, slots=True)
class Erased:
    """What `erase_except` removed: names of adapters and generations, and the number of temporary leftovers."""

    adapters: tuple[str, ...]
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
    """A directory of immutable, verified artifacts, safe for many processes at once."""

    def __init__(self, root: Path) -> None:
        """Open the store at `root`, creating it if it is not there. Raises `StoreFailure`."""
        self.root = root
        self._adapters = root / "adapters"
        self._generations = root / "generations"
        self._tmp = root / "tmp"
        self._verified: dict[str, tuple[Signature, dict[str, str]]] = {}
        with failures("open the store"):
            root.parent.mkdir(parents=True, exist_ok=True)
            for directory in (root, self._adapters, self._generations, self._tmp):
                directory.mkdir(mode=0o700, exist_ok=True)

    def digests(self) -> list[str]:
        """Return the digests of all adapters present, sorted; they are not verified here."""
        return _names(self._adapters)

    def generations(self) -> list[str]:
        """Return the ids of all generations present, sorted; they are not verified here."""
        return _names(self._generations)

    def has_adapter(self, digest: str) -> bool:
        """Return whether an adapter of this digest is present; its files are not verified here."""
        return self._adapter_path(digest).is_dir()

    def adapter(self, digest: str) -> Path:
        """Return the directory of an adapter, with every file verified.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file is torn, missing or not listed.
        """
        self.adapter_sums(digest)
        return self._adapter_path(digest)

    def adapter_sums(self, digest: str) -> dict[str, str]:
        """Return `{file name: SHA-256}` of an adapter, verified. Raises as `adapter` does."""
        path, what = self._adapter_path(digest), f"adapter {digest}"
        sums = _parse_sums(read(path / SUMS, what), what)
        verify_files(path, sums, {SUMS}, what)
        return sums

    def known_adapter_sums(self, digest: str) -> dict[str, str]:
        """The same, without reading files again that this object has verified and nobody has touched since.

        Whether they were touched is told by their inodes, sizes and times. What a disk does to them by itself is found
        when another process reads them.
        """
        path, what = self._adapter_path(digest), f"adapter {digest}"
        with _missing_is_told(what):
            seen = _signature(path)
        known = self._verified.get(digest)
        if known is None or known[0] != seen:
            known = self._verified[digest] = seen, self.adapter_sums(digest)
        return known[1]

    @contextmanager
    def new_adapter(self, digest: str) -> Iterator[Path]:
        """Yield an empty directory to be filled with an adapter's files; leaving without an error makes it visible.

        If a sound adapter of this digest is there by then, that one stays and this one is dropped. After an exception
        nothing is left. Raises `StoreFailure`.
        """
        path = self._adapter_path(digest)
        with self._temporary() as work:
            with failures(f"write adapter {digest}", only=(errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
                yield work
            with failures(f"write adapter {digest}"):
                _seal(work)
                self._settle(work, path, lambda: self.adapter_sums(digest))

    def remove_adapter(self, digest: str) -> None:
        """Remove an adapter if it is present. Raises `StoreFailure`."""
        with failures(f"remove adapter {digest}"):
            self._remove(self._adapter_path(digest))

    def add_generation(self, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
        """Store a generation and return its id: the SHA-256 of its manifest, which states the SHA-256 of each file.

        Storing the same again changes nothing, unless the stored one is damaged: then it is replaced.
        Raises `StoreFailure`; `ValueError` if the manifest has a key "files", or a file's name is not a plain one.
        """
        content = canonical_json(_with_files(manifest, files))
        generation_id = hashlib.sha256(content).hexdigest()
        with self._temporary() as work, failures(f"write generation {generation_id}"):
            for name, data in {**files, MANIFEST: content}.items():
                write_synced(work / name, data)
            sync_directory(work)
            self._settle(work, self._generation_path(generation_id), lambda: self.generation(generation_id))
        return generation_id

    def generation(self, generation_id: str) -> StoredGeneration:
        """Return a generation with its manifest and every file verified.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file is torn, missing or not listed.
        """
        path, what = self._generation_path(generation_id), f"generation {generation_id}"
        content = read(path / MANIFEST, what)
        if hashlib.sha256(content).hexdigest() != generation_id:
            raise DamagedArtifact(f"{what}: its manifest does not have the digest that names it; build again")
        manifest: dict[str, Any] = json.loads(content)
        verify_files(path, manifest["files"], {MANIFEST}, what)
        return StoredGeneration(generation_id, manifest, path)

    def active(self) -> str | None:
        """Return the id of the published generation, or None. Raises `DamagedArtifact` if `ACTIVE` is torn."""
        path = self.root / ACTIVE
        if not path.exists():
            return None
        content = read(path, ACTIVE).decode("ascii", "replace")
        if not _DIGEST.fullmatch(content.removesuffix("\n")):
            raise DamagedArtifact(f"{ACTIVE} does not hold a generation's id; publish a generation again")
        return content.removesuffix("\n")

    def publish(self, generation_id: str) -> None:
        """Make a stored generation the served one, atomically. Raises as `generation` does, then nothing changed."""
        self.generation(generation_id)
        with self._temporary() as work, failures(f"publish generation {generation_id}"):
            write_synced(work / ACTIVE, f"{generation_id}\n".encode())
            sys.audit("lethe.store.before_swap")
            os.replace(work / ACTIVE, self.root / ACTIVE)
            sys.audit("lethe.store.after_swap")
            sync_directory(self.root)

    def erase_except(self, adapters: Collection[str], generations: Collection[str]) -> Erased:
        """Remove every other adapter and generation, and all temporary files that no process is working on.

        Raises `StoreFailure` if the published generation is not among those to keep: publish another one first.
        """
        if (active := self.active()) is not None and active not in generations:
            raise StoreFailure(f"generation {active} is published and may not be erased; publish another one first")
        with failures("erase old adapters and generations"):
            self._verified = {name: known for name, known in self._verified.items() if name in adapters}
            return Erased(
                adapters=self._erase_others(self._adapters, adapters),
                generations=self._erase_others(self._generations, generations),
                temporary=self._erase_temporary(),
            )

    def abandoned(self) -> int:
        """Return how many temporary entries no process is working on. Raises `StoreFailure`."""
        with failures("look for temporary files"):
            return sum(is_abandoned(self._tmp / name) for name in os.listdir(self._tmp))

    def _adapter_path(self, digest: str) -> Path:
        return self._adapters / _checked(digest)

    def _generation_path(self, generation_id: str) -> Path:
        return self._generations / _checked(generation_id)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        with failures("create a temporary directory"):
            path, held = self._new_temporary()
        try:
            yield path
        finally:
            # The error that brought us here matters more than one of this cleaning; `erase_except` comes again.
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)

    def _new_temporary(self) -> tuple[Path, int]:
        while True:
            path = self._new_temporary_path()
            path.mkdir(mode=0o700)
            held = lock_directory(path, wait=True)
            if held is not None and path.exists():
                return path, held
            # Another process erased it between its creation and its lock.
            if held is not None:
                os.close(held)

    def _new_temporary_path(self) -> Path:
        return self._tmp / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _settle(self, work: Path, path: Path, verify: Callable[[], object]) -> None:
        """Rename `work` to `path`, unless a sound artifact is there already."""
        while not renamed(work, path):
            try:
                verify()
                return
            except MissingArtifact:
                continue
            except DamagedArtifact:
                self._remove(path)
        sys.audit("lethe.store.renamed")
        sync_directory(path.parent)

    def _remove(self, path: Path) -> bool:
        doomed = self._new_temporary_path()
        try:
            os.rename(path, doomed)
        except FileNotFoundError:
            return False
        sync_directory(path.parent)
        sys.audit("lethe.store.erasing")
        erase(doomed, wait=True)
        sync_directory(self._tmp)
        return True

    def _erase_others(self, parent: Path, keep: Collection[str]) -> tuple[str, ...]:
        others = sorted(set(os.listdir(parent)).difference(keep))
        return tuple(name for name in others if self._remove(parent / name))

    def _erase_temporary(self) -> int:
        erased = sum(erase(self._tmp / name, wait=False) for name in sorted(os.listdir(self._tmp)))
        sync_directory(self._tmp)
        return erased


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise StoreFailure(f"{digest[:80]!r} is not a digest; expected 64 lower-case hexadecimal digits")
    return digest


def _names(parent: Path) -> list[str]:
    with failures("list the store"):
        return sorted(name for name in os.listdir(parent) if _DIGEST.fullmatch(name))


def _signature(path: Path) -> Signature:
    with os.scandir(path) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    return tuple(sorted((name, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for name, at in found))


@contextmanager
def _missing_is_told(what: str) -> Iterator[None]:
    try:
        with failures(f"look at {what}"):
            yield
    except StoreFailure as failure:
        if isinstance(failure.__cause__, FileNotFoundError):
            raise MissingArtifact(f"the store holds no {what}; build again") from None
        raise


def _parse_sums(content: bytes, what: str) -> dict[str, str]:
    lines = content.decode("utf-8", "replace").split("\n")
    pairs = [line.split("  ", 1) for line in lines[:-1]]
    sound = lines[-1] == "" and all(len(pair) == 2 and _DIGEST.fullmatch(pair[0]) for pair in pairs)
    if not pairs or not sound:
        raise DamagedArtifact(f"{what}: {SUMS} is torn; build again")
    return {name: digest for digest, name in pairs}


def _seal(work: Path) -> None:
    """Write the sums of all files beside them and bring everything to the disk."""
    names = sorted(os.listdir(work))
    if not names:
        raise StoreFailure("an adapter without files cannot be stored")
    for name in names:
        if not _FILE_NAME.fullmatch(name) or name == SUMS or not (work / name).is_file() or (work / name).is_symlink():
            raise StoreFailure(f"an adapter holds plain files only, and {name!r} is none")
        sync_file(work / name)
    sums = "".join(f"{file_digest(work / name, 'adapter')}  {name}\n" for name in names)
    write_synced(work / SUMS, sums.encode())
    sync_directory(work)


def _with_files(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    if "files" in manifest:
        raise ValueError('the manifest may not have a key "files": the store writes it')
    for name in files:
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise ValueError(f"{name!r} is not a plain file name")
    return {**manifest, "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}

"""Artifacts of one kind as directories of files, each named by a digest of what it was made from and verified when read.

    <kind>/<digest>/       the artifact's files and SHA256SUMS
    tmp/<pid>-<random>/    work under way, locked by its process

Everything is written under `tmp/`, synced, and renamed: a reader sees a whole artifact or none. Removal renames into
`tmp/` first, for the same reason. A lock on a temporary directory says that a process still works in it; a process
number alone would not, because containers that share the store count their processes separately.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

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
DIGEST = re.compile(r"[0-9a-f]{64}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")

Signature = tuple[tuple[str, int, int, int, int], ...]  # of a directory's files, by name


class Workspace:
    """The temporary directories in which artifacts are written and erased. Safe for many processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A directory of one's own, gone when the block ends."""
        with failures("create a temporary directory"):
            path, held = self._new()
        try:
            yield path
        finally:
            # The error that brought us here matters more than one of this cleaning; `erase_abandoned` comes again.
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)

    def settle(self, work: Path, path: Path, verify: Callable[[], object]) -> None:
        """Rename `work` to `path`, unless what is there already passes `verify`."""
        while not renamed(work, path):
            try:
                verify()
                return
            except MissingArtifact:
                continue
            except DamagedArtifact:
                self.remove(path)
        sys.audit("lethe.store.renamed")
        sync_directory(path.parent)

    def remove(self, path: Path) -> bool:
        """Erase a directory at once for all readers; whether there was one."""
        doomed = self._new_path()
        try:
            os.rename(path, doomed)
        except FileNotFoundError:
            return False
        sync_directory(path.parent)
        sys.audit("lethe.store.erasing")
        erase(doomed, wait=True)
        sync_directory(self.root)
        return True

    def abandoned(self) -> int:
        """How many temporary entries no process is working on."""
        return sum(is_abandoned(self.root / name) for name in os.listdir(self.root))

    def erase_abandoned(self) -> int:
        """Erase these, and return how many there were."""
        erased = sum(erase(self.root / name, wait=False) for name in sorted(os.listdir(self.root)))
        sync_directory(self.root)
        return erased

    def _new(self) -> tuple[Path, int]:
        while True:
            path = self._new_path()
            path.mkdir(mode=0o700)
            held = lock_directory(path, wait=True)
            if held is not None and path.exists():
                return path, held
            # Another process erased it between its creation and its lock.
            if held is not None:
                os.close(held)

    def _new_path(self) -> Path:
        return self.root / f"{os.getpid()}-{secrets.token_hex(8)}"


class Artifacts:
    """All artifacts of one kind, immutable and verified; `kind` is how messages call one."""

    def __init__(self, folder: Path, kind: str, workspace: Workspace) -> None:
        self._folder, self._kind, self._workspace = folder, kind, workspace
        self._verified: dict[str, tuple[Signature, dict[str, str]]] = {}

    def digests(self) -> list[str]:
        """Return the digests of all that are present, sorted; they are not verified here."""
        return names_in(self._folder)

    def has(self, digest: str) -> bool:
        """Return whether one of this digest is present; its files are not verified here."""
        return self._path(digest).is_dir()

    def path(self, digest: str) -> Path:
        """Return the directory of an artifact, with every file verified.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file is torn, missing or not listed.
        """
        self.sums(digest)
        return self._path(digest)

    def sums(self, digest: str) -> dict[str, str]:
        """Return `{file name: SHA-256}` of an artifact, verified. Raises as `path` does."""
        path, what = self._path(digest), f"{self._kind} {digest}"
        sums = _parse_sums(read(path / SUMS, what), what)
        verify_files(path, sums, {SUMS}, what)
        return sums

    def known_sums(self, digest: str) -> dict[str, str]:
        """Return the sums, without reading files again that this object has verified and nobody has touched since.

        Whether they were touched is told by their inodes, sizes and times. What a disk does to them by itself is found
        when another process reads them.
        """
        path, what = self._path(digest), f"{self._kind} {digest}"
        with _missing_is_told(what):
            seen = _signature(path)
        known = self._verified.get(digest)
        if known is None or known[0] != seen:
            known = self._verified[digest] = seen, self.sums(digest)
        return known[1]

    @contextmanager
    def new(self, digest: str) -> Iterator[Path]:
        """Yield an empty directory to be filled with an artifact's files; leaving without an error makes it visible.

        If a sound one of this digest is there by then, that one stays and this one is dropped. After an exception
        nothing is left. Raises `StoreFailure`.
        """
        path, what = self._path(digest), f"write {self._kind} {digest}"
        with self._workspace.temporary() as work:
            with failures(what, only=(errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
                yield work
            with failures(what):
                _seal(work)
                self._workspace.settle(work, path, lambda: self.sums(digest))

    def remove(self, digest: str) -> None:
        """Remove an artifact if it is present. Raises `StoreFailure`."""
        with failures(f"remove {self._kind} {digest}"):
            self._workspace.remove(self._path(digest))

    def remove_except(self, keep: Collection[str]) -> tuple[str, ...]:
        """Remove all others, and whatever else lies in the folder; return their names."""
        self._verified = {name: known for name, known in self._verified.items() if name in keep}
        others = sorted(set(os.listdir(self._folder)).difference(keep))
        return tuple(name for name in others if self._workspace.remove(self._folder / name))

    def _path(self, digest: str) -> Path:
        return self._folder / checked_digest(digest)


def checked_digest(digest: str) -> str:
    """The digest itself. Raises `StoreFailure` for anything else."""
    if not DIGEST.fullmatch(digest):
        raise StoreFailure(f"{digest[:80]!r} is not a digest; expected 64 lower-case hexadecimal digits")
    return digest


def names_in(folder: Path) -> list[str]:
    """The digests that name entries of a folder, sorted."""
    with failures("list the store"):
        return sorted(name for name in os.listdir(folder) if DIGEST.fullmatch(name))


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
    sound = lines[-1] == "" and all(len(pair) == 2 and DIGEST.fullmatch(pair[0]) for pair in pairs)
    if not pairs or not sound:
        raise DamagedArtifact(f"{what}: {SUMS} is torn; build again")
    return {name: digest for digest, name in pairs}


def _seal(work: Path) -> None:
    """Write the sums of all files beside them and bring everything to the disk."""
    names = sorted(os.listdir(work))
    if not names:
        raise StoreFailure("an artifact without files cannot be stored")
    for name in names:
        if not FILE_NAME.fullmatch(name) or name == SUMS or not (work / name).is_file() or (work / name).is_symlink():
            raise StoreFailure(f"an artifact holds plain files only, and {name!r} is none")
        sync_file(work / name)
    sums = "".join(f"{file_digest(work / name, 'artifact')}  {name}\n" for name in names)
    write_synced(work / SUMS, sums.encode())
    sync_directory(work)

"""Artifacts of one kind as directories of files, each named by a digest of what it was made from.

    <kind>/<digest>/       the artifact's files and SHA256SUMS
    <kind>/<digest>.note   one line beside an artifact that no published manifest states yet
    tmp/<pid>-<random>/    work under way, locked by its process

Everything is written under `tmp/`, synced, and renamed: a reader sees a whole artifact or none. Removal renames into
`tmp/` first, for the same reason. A lock on a temporary directory says that a process still works in it; a process
number alone would not, because containers that share the store count their processes separately.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters_store.files import (
    DamagedArtifact,
    MissingArtifact,
    StoreFailure,
    check_digest,
    check_names,
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

_NOTE = ".note"


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

    def reconcile_once(self, work: Path, path: Path, verify: Callable[[], object]) -> None:
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


@dataclass(frozen=True, slots=True)
class StatedArtifact:
    """A folder, and the SHA-256 that a manifest states of each file in it."""

    path: Path
    what: str  # how messages call it
    files: Mapping[str, str]

    def read(self) -> dict[str, bytes]:
        """Return the content of every stated file, each verified as it was read.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file differs, is missing, linked or not stated.
        """
        sums = with_sums(self.files)
        check_names(self.path, sums, self.what)
        content = {name: read(self.path / name, self.what) for name in sums}
        for name, expected in sums.items():
            check_digest(name, hashlib.sha256(content[name]).hexdigest(), expected, self.what)
        return {name: content[name] for name in self.files}


class Artifacts:
    """All artifacts of one kind, immutable; `kind` is how messages call one.

    Which bytes an artifact must have is stated by a manifest: its own `SHA256SUMS` says so too, for people and their tools,
    but whoever changes a file can change that one with it.
    """

    def __init__(self, folder: Path, kind: str, workspace: Workspace) -> None:
        self.kind = kind
        self._folder, self._workspace = folder, workspace

    def digests(self) -> list[str]:
        """Return the digests of all that are present, sorted; they are not verified here."""
        return names_in(self._folder)

    def strays(self) -> list[str]:
        """Return the names of entries that are neither an artifact nor an artifact's note, sorted."""
        with failures(f"list the {self.kind} folder"):
            names = sorted(os.listdir(self._folder))
        return [name for name in names if not DIGEST.fullmatch(name.removesuffix(_NOTE))]

    def noted(self) -> list[str]:
        """Return the names of those beside which a note lies."""
        with failures(f"list the {self.kind} folder"):
            return [name.removesuffix(_NOTE) for name in os.listdir(self._folder) if name.endswith(_NOTE)]

    def has(self, digest: str) -> bool:
        """Return whether anything is present under this digest; it is not verified here."""
        return os.path.lexists(self.folder(digest))

    def folder(self, digest: str) -> Path:
        """Return where an artifact lies or would lie; nothing is verified here."""
        return self._folder / checked_digest(digest)

    def path(self, digest: str) -> Path:
        """Return the folder of an artifact whose files are as its own `SHA256SUMS` lists them; says nothing of their origin.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file is torn, missing, linked or not listed.
        """
        self.sums(digest)
        return self.folder(digest)

    def sums(self, digest: str) -> dict[str, str]:
        """Return `{file name: SHA-256}` of an artifact as it lists them itself. Raises as `path` does."""
        path, what = self.folder(digest), f"{self.kind} {digest}"
        sums = _parse_sums(read(path / SUMS, what), what)
        verify_files(path, sums, {SUMS}, what)
        return sums

    def verify(self, digest: str, stated: Mapping[str, str]) -> None:
        """Read every file and compare it with the SHA-256 that is stated of it.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file differs, is missing, linked or not stated.
        """
        verify_files(self.folder(digest), with_sums(stated), (), f"{self.kind} {digest}")

    def stated(self, digest: str, files: Mapping[str, str]) -> StatedArtifact:
        """Return an artifact as a manifest states it, to be read here or in another process."""
        return StatedArtifact(self.folder(digest), f"{self.kind} {digest}", files)

    def add(self, digest: str, files: Mapping[str, bytes]) -> dict[str, str]:
        """Store an artifact of these files and return their SHA-256. Raises as `new` does."""
        with self.new(digest) as folder:
            for name, content in files.items():
                (folder / name).write_bytes(content)
        return {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}

    @contextmanager
    def new(self, digest: str) -> Iterator[Path]:
        """Yield an empty directory to be filled with an artifact's files; leaving without an error makes it visible.

        If one of the same files is there by then, that one stays; any other is replaced. After an exception nothing is
        left. Raises `StoreFailure`.
        """
        path, what = self.folder(digest), f"write {self.kind} {digest}"
        with self._workspace.temporary() as work:
            with failures(what, only=(errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
                yield work
            with failures(what):
                sums = _seal(work)
                self._workspace.reconcile_once(work, path, lambda: self.verify(digest, sums))

    def note(self, digest: str) -> str | None:
        """Return the line that was written beside an artifact, if one was; it is not verified here."""
        try:
            return read(self._note(digest), f"note of {self.kind} {digest}").decode("utf-8", "replace")
        except (DamagedArtifact, MissingArtifact):
            return None

    def write_note(self, digest: str, line: str) -> None:
        """Write a line beside an artifact, which goes with it, or when `remove_except` keeps it. Raises `StoreFailure`."""
        with self._workspace.temporary() as work, failures(f"write a note of {self.kind} {digest}"):
            write_synced(work / "note", line.encode())
            os.replace(work / "note", self._note(digest))
            sync_directory(self._folder)

    def remove(self, digest: str) -> None:
        """Remove an artifact if it is present. Raises `StoreFailure`."""
        with failures(f"remove {self.kind} {digest}"):
            self._workspace.remove(self._note(digest))
            self._workspace.remove(self.folder(digest))

    def remove_except(self, keep: Collection[str], ahead: Collection[str] = ()) -> tuple[str, ...]:
        """Remove all others, and whatever else lies in the folder; return their names. Those made `ahead` keep their notes."""
        kept = {*keep, *ahead, *(digest + _NOTE for digest in ahead)}
        others = sorted(set(os.listdir(self._folder)) - kept)
        return tuple(name for name in others if self._workspace.remove(self._folder / name))

    def _note(self, digest: str) -> Path:
        return self._folder / f"{checked_digest(digest)}{_NOTE}"


def with_sums(stated: Mapping[str, str]) -> dict[str, str]:
    """The stated SHA-256 of an artifact's files, and that of the `SHA256SUMS` which must then lie beside them."""
    return {**stated, SUMS: hashlib.sha256(_sums_content(stated)).hexdigest()}


def checked_digest(digest: str) -> str:
    """The digest itself. Raises `StoreFailure` for anything else."""
    if not DIGEST.fullmatch(digest):
        raise StoreFailure(f"{digest[:80]!r} is not a digest; expected 64 lower-case hexadecimal digits")
    return digest


def names_in(folder: Path) -> list[str]:
    """The digests that name entries of a folder, sorted."""
    with failures("list the store"):
        return sorted(name for name in os.listdir(folder) if DIGEST.fullmatch(name))


def _sums_content(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def _parse_sums(content: bytes, what: str) -> dict[str, str]:
    lines = content.decode("utf-8", "replace").split("\n")
    pairs = [line.split("  ", 1) for line in lines[:-1]]
    sound = lines[-1] == "" and all(len(pair) == 2 and DIGEST.fullmatch(pair[0]) for pair in pairs)
    if not pairs or not sound:
        raise DamagedArtifact(f"{what}: {SUMS} is torn; build again")
    return {name: digest for digest, name in pairs}


def _seal(work: Path) -> dict[str, str]:
    """Write the sums of all files beside them, bring everything to the disk, and return the sums."""
    names = sorted(os.listdir(work))
    if not names:
        raise StoreFailure("an artifact without files cannot be stored")
    for name in names:
        if not FILE_NAME.fullmatch(name) or name == SUMS or not (work / name).is_file() or (work / name).is_symlink():
            raise StoreFailure(f"an artifact holds plain files only, and {name!r} is none")
        sync_file(work / name)
    sums = {name: file_digest(work / name, "artifact") for name in names}
    write_synced(work / SUMS, _sums_content(sums))
    sync_directory(work)
    return sums

"""A store in a folder of this machine.

    <kind>/<digest>/       the artifact's files
    <kind>/<digest>.note   one line beside an artifact that no published manifest states yet
    tmp/<pid>-<random>/    work under way, locked by its process

Everything is written under `tmp/`, synced, and renamed: a reader sees a whole artifact or none. Removal renames into
`tmp/` first, for the same reason. A lock on a temporary directory says that a process still works in it; a process
number alone would not, because containers that share the store count their processes separately.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from adapters_store.backend import DIRECTORIES, PLAIN, Backend, ByteSearch, Listing, Remains, Signature, Swap
from adapters_store.files import (
    DamagedArtifact,
    MissingArtifact,
    check_names,
    erase,
    failures,
    is_abandoned,
    lock_directory,
    opened,
    read,
    renamed,
    sync_directory,
    verify_files,
    write_once,
    write_synced,
)

_CHUNK = 2**20  # bytes


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


class Folder:
    """A place for a store that is a folder; it meets `Backend`, whose docstrings say what is promised."""

    def __init__(self, root: Path, workspace: Workspace | None = None) -> None:
        """Open the folder, creating it if it is not there. Raises `StoreFailure`."""
        self._root = root
        self._workspace = workspace or Workspace(root / "tmp")
        with failures("open the store"):
            root.parent.mkdir(parents=True, exist_ok=True)
            for name in ("", *DIRECTORIES, "tmp"):
                (root / name).mkdir(mode=0o700, exist_ok=True)

    @property
    def format(self) -> int:
        """Files are as they were given."""
        return PLAIN

    @property
    def folder(self) -> Path | None:
        """The folder itself."""
        return self._root

    @property
    def bytes_a_look(self) -> int:
        """Times of a file can be set by whoever changes it, so all bytes are read again in turn."""
        return 2**24

    def look(self) -> Listing:
        """A folder is asked anew for everything, which costs no request."""
        return self

    def reader_of(self, directory: str) -> Backend:
        """The folder, which any process of this machine can read."""
        return self

    def names(self, directory: str) -> list[str]:
        """Entries of whatever kind, hidden ones too."""
        with failures("list the store"):
            return sorted(os.listdir(self._root / directory))

    def has(self, path: str) -> bool:
        """A link counts, wherever it leads."""
        return os.path.lexists(self._root / path)

    def check_names(self, directory: str, names: Collection[str], what: str) -> None:
        """A link to a folder is no folder."""
        check_names(self._root / directory, names, what)

    def signature(self, directory: str) -> Signature:
        """The folder's inode, and of each entry name, mode, inode, size in bytes and times of change in nanoseconds.

        Symbolic links are not followed.
        """
        folder = self._root / directory
        try:
            at = os.lstat(folder)
            if not stat.S_ISDIR(at.st_mode):
                raise DamagedArtifact(f"{folder.name} is no folder; build again")
            with os.scandir(folder) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        except FileNotFoundError:
            raise MissingArtifact(f"the store holds no {directory}; build again") from None
        of_entries = sorted((n, s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for n, s in found)
        return ((at.st_ino,), *of_entries)

    def size(self, directory: str) -> int:
        """The sum of what the file system says."""
        return sum(path.stat().st_size for path in (self._root / directory).iterdir())

    def abandoned(self) -> int:
        """Temporary entries that no process is working on."""
        with failures("look for temporary files"):
            return self._workspace.abandoned()

    def read(self, path: str, what: str, digest: str | None = None) -> bytes:
        """Plain files alone are read, and never out of a cache: the operating system has one."""
        return read(self._root / path, what)

    def chunks(self, path: str, what: str) -> Iterator[bytes]:
        """Pieces of a mebibyte."""
        with opened(self._root / path, what) as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def put(self, directory: str, files: Mapping[str, bytes], what: str) -> None:
        """Written and brought to the disk elsewhere, then renamed."""
        path = self._root / directory
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        with self._workspace.temporary() as work, failures(f"write {what}"):
            for name, content in files.items():
                write_synced(work / name, content)
            sync_directory(work)
            self._workspace.reconcile_once(work, path, lambda: verify_files(path, sums, (), what))

    def write(self, path: str, content: bytes) -> None:
        """Renamed over what was there."""
        target = self._root / path
        with self._workspace.temporary() as work, failures(f"write {target.name}"):
            write_synced(work / "record", content)
            os.replace(work / "record", target)
            sync_directory(target.parent)

    def write_once(self, path: str, content: bytes) -> None:
        """The first of several processes wins. What may only be read is left as it is."""
        with suppress(OSError):
            write_once(self._root / path, lambda: content)

    def swap(self, path: str) -> Swap:
        """A rename, whatever came meanwhile: the ledger's fence says which of two publications counts."""
        target = self._root / path

        def write(content: bytes) -> None:
            with self._workspace.temporary() as work, failures(f"write {target.name}"):
                write_synced(work / target.name, content)
                if target.is_dir() and not target.is_symlink():
                    self._workspace.remove(target)  # a folder cannot be replaced by a file
                sys.audit("lethe.store.before_swap")
                os.replace(work / target.name, target)
                sys.audit("lethe.store.after_swap")
                sync_directory(target.parent)

        return write

    def remove(self, path: str) -> bool:
        """Renamed away first, then erased."""
        return self._workspace.remove(self._root / path)

    def erase_abandoned(self) -> int:
        """Temporary entries that no process is working on."""
        return self._workspace.erase_abandoned()

    def remains(self) -> Remains | None:
        """A folder shows all that it has."""
        return None

    def keys_left(self) -> int | None:
        """There are no keys."""
        return None

    def forget_except(self, directories: Collection[str]) -> None:
        """There is no cache."""

    def contents(self) -> Iterator[tuple[Path, bytes]]:
        """Plain files alone. What others erase meanwhile is left out."""
        for path in _plain_files(self._root):
            with suppress(FileNotFoundError):
                yield path.relative_to(self._root), path.read_bytes()

    def search(self, needles: Sequence[bytes]) -> ByteSearch:
        """Temporary files are searched, too."""
        return files_holding(self._root, needles)


def files_holding(root: Path, needles: Sequence[bytes]) -> ByteSearch:
    """Search every file under `root`, with its path relative to it, for any of `needles`."""
    files, read_bytes, hits = 0, 0, []
    for path in _plain_files(root):
        try:
            size, hit = _search(path, needles)
        except FileNotFoundError:
            continue  # others may erase meanwhile, which is no loss
        files, read_bytes = files + 1, read_bytes + size
        if hit or holds_any(str(path.relative_to(root)).encode(), needles):
            hits.append(path)
    return ByteSearch(files, read_bytes, tuple(hits))


def contents_holding(contents: Iterable[tuple[Path, bytes]], needles: Sequence[bytes]) -> ByteSearch:
    """Search files that are given with their paths for any of `needles`."""
    files, read_bytes, hits = 0, 0, []
    for path, content in contents:
        files, read_bytes = files + 1, read_bytes + len(content)
        if holds_any(content, needles) or holds_any(str(path).encode(), needles):
            hits.append(path)
    return ByteSearch(files, read_bytes, tuple(hits))


def holds_any(content: bytes, needles: Sequence[bytes]) -> bool:
    """Whether any of `needles` stands in `content`."""
    return any(needle in content for needle in needles)


def _plain_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        with suppress(FileNotFoundError):
            if not path.is_symlink() and path.is_file():
                yield path


def _search(path: Path, needles: Sequence[bytes]) -> tuple[int, bool]:
    size = path.stat().st_size
    if not size:
        return 0, False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return size, any(content.find(needle) >= 0 for needle in needles)

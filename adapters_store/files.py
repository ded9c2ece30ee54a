"""Steps on the file system: whole files brought to the disk, renames that never replace, locked temporary directories."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

_ADVICE = {
    errno.ENOSPC: "The disk is full: free some space and try again.",
    errno.EDQUOT: "The disk quota is used up: free some space and try again.",
    errno.EROFS: "The file system is read-only: mount it for writing, or choose another directory.",
    errno.EACCES: "The directory may not be written: give it to the user that runs this process.",
    errno.EPERM: "The directory may not be written: give it to the user that runs this process.",
}
_PROBE_BYTES = 1 << 16  # more than what a deletion writes before it is answered

# Without waiting for the other end of a pipe that somebody put there.
_PLAINLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_PLAIN_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO)


class StoreFailure(Exception):
    """The store cannot be read or written, or it was asked for something that it refuses."""


class DamagedArtifact(StoreFailure):
    """What lies on the disk is not what its digest says."""


class MissingArtifact(StoreFailure):
    """The store holds nothing under this digest."""


@contextmanager
def failures(action: str, only: Collection[int] | None = None) -> Iterator[None]:
    """Turn operating system errors (those of `only`, or all) into `StoreFailure`s that say what to do."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        advice = _ADVICE.get(error.errno or 0, "Check the store's directory and disk.")
        raise StoreFailure(f"cannot {action}: {error.strerror or error}. {advice}") from error


@contextmanager
def opened(path: Path, what: str) -> Iterator[BufferedReader]:
    """A plain file of `what`, open for reading; a link is none. Raises `DamagedArtifact`, `MissingArtifact`, `StoreFailure`."""
    try:
        with os.fdopen(_open_plain(path), "rb") as file:
            yield file
    except OSError as error:
        if error.errno not in _NO_PLAIN_FILE:
            raise StoreFailure(f"cannot read {what}: {error.strerror or error}. Check the store's disk.") from error
        # Asked after the failure, because an eraser may have come between.
        if os.path.lexists(path.parent):
            raise DamagedArtifact(f"{what}: {path.name} is missing or no plain file; build again") from None
        raise MissingArtifact(f"the store holds no {what}; build again") from None


def _open_plain(path: Path) -> int:
    descriptor = os.open(path, _PLAINLY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return descriptor


def read(path: Path, what: str) -> bytes:
    """Return the bytes of a file of `what`. Raises `DamagedArtifact`, `MissingArtifact`, or `StoreFailure`."""
    with opened(path, what) as file:
        return file.read()


def check_names(path: Path, names: Collection[str], what: str) -> None:
    """Check that a path is a folder (no link to one) with exactly these entries. Raises as `read`."""
    if path.is_symlink():
        raise DamagedArtifact(f"{what}: its folder is a symbolic link; build again")
    try:
        found = set(os.listdir(path))
    except FileNotFoundError:
        raise MissingArtifact(f"the store holds no {what}; build again") from None
    except NotADirectoryError:
        raise DamagedArtifact(f"{what}: its folder is no folder; build again") from None
    if wrong := sorted(found.symmetric_difference(names)):
        raise DamagedArtifact(f"{what}: {wrong[0]!r} is missing or not stated; build again")


def verify_files(path: Path, sums: Mapping[str, str], beside: Collection[str], what: str) -> None:
    """Check that a directory holds exactly the files of `sums` (with these SHA-256) and `beside`. Raises as `read`."""
    check_names(path, {*sums, *beside}, what)
    for name, digest in sums.items():
        check_digest(name, file_digest(path / name, what), digest, what)


def check_digest(name: str, found: str, stated: str, what: str) -> None:
    """Raises `DamagedArtifact` unless the file `name` of `what` has the SHA-256 that is stated of it."""
    if found != stated:
        raise DamagedArtifact(f"{what}: {name} does not have the digest that is stated of it; build again")


def file_digest(path: Path, what: str) -> str:
    """Return the SHA-256 of a plain file. Raises as `read`."""
    with opened(path, what) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def renamed(work: Path, path: Path) -> bool:
    """Rename a directory and return whether that was done: not where something is already."""
    try:
        os.rename(work, path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    return True


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and bring it to the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_once(path: Path, content: Callable[[], bytes]) -> None:
    """Create a whole file for its owner only, unless there is one; of several processes at once, the first one's stays."""
    for stray in path.parent.glob(f".{path.name}-*"):  # of a process that died here, or will find its work done
        stray.unlink(missing_ok=True)
    while not path.exists():
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        _write_private(temporary, content())
        # A link, unlike a rename, never replaces the file of a process that was faster.
        with suppress(FileExistsError, FileNotFoundError):
            os.link(temporary, path)
        temporary.unlink(missing_ok=True)
        sync_directory(path.parent)


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def require_writable(directory: Path) -> None:
    """Write a little into a directory, and bring it to the disk; nothing stays of it. Raises `StoreFailure`."""
    with failures("write a file"), tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Bring a directory's entries to the disk, so that what was created, renamed or removed in it stays so."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_directory(path: Path, wait: bool) -> int | None:
    """Lock a directory, and return the descriptor that holds the lock; None if another holds it or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_abandoned(path: Path) -> bool:
    """Return whether a temporary entry is there and no process works in it."""
    if not path.is_dir():
        return os.path.lexists(path)
    held = lock_directory(path, wait=False)
    if held is None:
        return False
    os.close(held)
    return True


def erase(path: Path, wait: bool) -> bool:
    """Remove a temporary entry and return whether that was done: not while another process works in it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return True
    held = lock_directory(path, wait)
    if held is None:
        return False
    try:
        # Another process may have removed it before this lock was got.
        if path.exists():
            shutil.rmtree(path)
    finally:
        os.close(held)
    return True

"""Disks for tests that end badly: small enough to be filled, and one can be made read-only. Each is a tmpfs of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_BALLAST = "ballast"
_HINT = "mounting a tmpfs is not allowed here; run this as root, or as `unshare -rm .venv/bin/pytest …`"


class Disk:
    """A file system of its own at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave not a byte."""
        descriptor = os.open(self.path / _BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with suppress(OSError):
            while os.write(descriptor, bytes(1 << 16)):
                pass
        os.close(descriptor)

    def make_room(self) -> None:
        (self.path / _BALLAST).unlink()

    def make_read_only(self) -> None:
        assert _done("mount", "-o", "remount,ro", str(self.path))

    def make_writable(self) -> None:
        assert _done("mount", "-o", "remount,rw", str(self.path))


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Disk]:
    """A disk of this size (as `mount` reads it) at `path`. Skips the test where nothing may be mounted."""
    path.mkdir(parents=True, exist_ok=True)
    if not _done("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)):
        pytest.skip(_HINT)
    try:
        yield Disk(path)
    finally:
        # Lazily: a process that the test has ended may still be letting go of a file.
        assert _done("umount", "--lazy", str(path))


def _done(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0

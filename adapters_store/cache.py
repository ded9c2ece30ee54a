"""Files that were read from a bucket, in this process's memory: by digest, bounded, and gone with what is erased.

In memory and not on a disk: a copy on a disk outlives its process, and no deletion that another machine completes reaches it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable


class ReadCache:
    """Keeps the files that were used last, up to so many bytes. Threads share it."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes; 0: nothing is kept."""
        self._limit = limit
        self._files: OrderedDict[tuple[str, str], bytes] = OrderedDict()  # (path, SHA-256) -> content, the oldest first
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self._bytes

    def get(self, path: str, digest: str) -> bytes | None:
        """The content that lay at a path with this digest, if it is kept."""
        with self._lock:
            if (path, digest) not in self._files:
                return None
            self._files.move_to_end((path, digest))
            return self._files[path, digest]

    def put(self, path: str, digest: str, content: bytes) -> None:
        """Keep what was read, if it has the digest and there is room at all."""
        if len(content) > self._limit or hashlib.sha256(content).hexdigest() != digest:
            return
        with self._lock:
            self._drop(lambda key: key == (path, digest))
            self._files[path, digest] = content
            self._bytes += len(content)
            while self._bytes > self._limit:
                _, oldest = self._files.popitem(last=False)
                self._bytes -= len(oldest)

    def forget(self, which: Callable[[str], bool]) -> None:
        """Drop every file whose path `which` says yes to."""
        with self._lock:
            self._drop(lambda key: which(key[0]))

    def _drop(self, which: Callable[[tuple[str, str]], bool]) -> None:
        for key in [key for key in self._files if which(key)]:
            self._bytes -= len(self._files.pop(key))

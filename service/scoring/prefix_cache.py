"""What the frozen model made of contexts, kept in memory for the next page of the same person's candidates.

It is derived from people's histories, so it never leaves memory, is named by a digest of the tokens, and does not outlive
a deletion: nothing here says whose a context was, so every deletion empties it.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from service.llm.packed import Prefix


class PrefixCache:
    """At most `max_bytes` of prefixes of one frozen model; what was used longest ago goes first. Safe among threads."""

    def __init__(self, max_bytes: int) -> None:
        self.nbytes = 0
        self._max_bytes = max_bytes
        self._fence = -1
        self._kept: OrderedDict[bytes, Prefix] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, context: Sequence[int], fence: int) -> Prefix | None:
        """What was kept of these tokens, if no deletion came since."""
        name = _digest(context)
        with self._lock:
            self._follow(fence)
            prefix = self._kept.get(name)
            if prefix is not None:
                self._kept.move_to_end(name)
            return prefix

    def put(self, context: Sequence[int], prefix: Prefix, fence: int) -> None:
        """Keep what was read under `fence`, unless a deletion came since or it is too large."""
        name, size = _digest(context), prefix.nbytes
        with self._lock:
            self._follow(fence)
            if fence != self._fence or size > self._max_bytes or name in self._kept:
                return
            # A view of a whole batch's tensor would keep all of it alive.
            self._kept[name] = prefix.copy()
            self.nbytes += size
            while self.nbytes > self._max_bytes:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Keep nothing of what is kept now."""
        with self._lock:
            self._kept.clear()
            self.nbytes = 0

    def follow(self, fence: int) -> None:
        """Drop everything if `fence` shows a deletion that was not known yet."""
        with self._lock:
            self._follow(fence)

    def _follow(self, fence: int) -> None:
        if fence > self._fence:
            self._kept.clear()
            self.nbytes = 0
            self._fence = fence


def _digest(context: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("q", context).tobytes(), digest_size=32).digest()

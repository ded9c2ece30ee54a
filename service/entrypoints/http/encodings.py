"""Bodies that were packed for the way: unpacked piece by piece, and never further than may be taken."""

from __future__ import annotations

import zlib

_GZIP = 16 + zlib.MAX_WBITS  # what tells zlib to expect a gzip header

ENCODINGS = ("gzip", "x-gzip")  # the second is an old name of the first


class NotGzip(Exception):
    """What was sent is not, or not to its end, what `Content-Encoding: gzip` promises."""


class Gunzip:
    """Unpacks one body of one or more gzip members. `unpacked` counts its bytes so far."""

    def __init__(self, limit: int) -> None:
        """At most one byte more than `limit` is ever unpacked, whatever the members promise."""
        self._limit = limit
        self._member = zlib.decompressobj(_GZIP)
        self.unpacked = 0

    def feed(self, packed: bytes) -> bytes:
        """The bytes that this piece completes; empty once there are more than the limit. Raises NotGzip."""
        parts = []
        while packed and self.unpacked <= self._limit:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            part = self._unpack(packed)
            self.unpacked += len(part)
            parts.append(part)
            packed = self._member.unconsumed_tail or self._member.unused_data
        return b"".join(parts)

    def finish(self) -> None:
        """Raises NotGzip if the last member has no end."""
        if not self._member.eof and self.unpacked <= self._limit:
            raise NotGzip

    def _unpack(self, packed: bytes) -> bytes:
        try:
            return self._member.decompress(packed, self._limit + 1 - self.unpacked)
        except zlib.error as error:
            raise NotGzip from error

"""What a bucket asks of the client of its server: `s3` has one. Keys are relative to the store's prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's content, and the tag (ETag) that changes with it."""

    content: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of an object, or the marker of a deletion; `shown`: what its key gives now."""

    key: str
    version: str
    shown: bool
    marker: bool
    tag: str = ""
    size: int = 0
    modified: str = ""


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    upload: str


class Objects(Protocol):
    """All objects under one prefix of one bucket. Every method raises `StoreFailure` that says what to do."""

    @property
    def where(self) -> str:
        """How messages call it: bucket and prefix."""
        ...

    def get(self, key: str, version: str | None = None) -> StoredObject | None:
        """Return an object, or one version of it; None if there is none."""
        ...

    def create(self, key: str, content: bytes) -> str | None:
        """Write an object where there is none, and return its tag; None if there is one, or another process is writing it."""
        ...

    def replace(self, key: str, content: bytes, tag: str) -> str | None:
        """Write an object in the place of the one with this tag; None if that is not what is there any more."""
        ...

    def write(self, key: str, content: bytes) -> None:
        """Write an object, whatever is there."""
        ...

    def versions(self, prefix: str = "") -> Iterator[ObjectVersion]:
        """All versions of all objects whose keys begin so, in the order of their keys."""
        ...

    def erase(self, versions: Sequence[ObjectVersion]) -> None:
        """Delete exactly these versions, for good."""
        ...

    def uploads(self) -> list[PendingUpload]:
        """All multipart uploads under way."""
        ...

    def abort(self, upload: PendingUpload) -> None:
        """End one; its parts are gone. One that has ended meanwhile is fine."""
        ...

    def require_erasable(self, copies_may_stay: bool) -> None:
        """Refuse a bucket that does not exist, may not be read, or whose settings keep what is deleted.

        With `copies_may_stay` these settings are not asked for.
        """
        ...

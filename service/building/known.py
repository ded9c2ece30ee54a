"""Artifacts whose bytes are known: stated by the published manifest, vouched for by a keyed note, or made here.

An artifact's name says what it was made from, and its own list of sums can be changed together with its files. So nothing is
used again because it is there: its files must be those that somebody states who can be believed. What is made during a build is
stated by no manifest yet; a note beside it, keyed with the installation's secret, lets the build that follows a crash find it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping

from adapters_store import Artifacts, DamagedArtifact, MissingArtifact, StatedArtifact, StoreFault, canonical_json

OnDamage = Callable[[StoreFault], None]
Files = Mapping[str, str]  # name -> SHA-256


def ignore_damage(_fault: StoreFault) -> None:
    """What is made where nobody watches is made again without a word."""


class KnownArtifacts:
    """Those of one kind in one store. `on_damage` is told of each that is not what it should be."""

    def __init__(self, artifacts: Artifacts, secret: bytes, on_damage: OnDamage = ignore_damage) -> None:
        self._artifacts, self._secret, self._on_damage = artifacts, secret, on_damage
        self._stated: Mapping[str, Files] = {}
        self._found: dict[str, Files] = {}  # made here, or read and found right, since `begin`

    def begin(self, stated: Mapping[str, Files]) -> None:
        """Believe a published manifest, which states the files of each artifact, and forget what was known before."""
        self._stated, self._found = stated, {}

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that must be made: not there, not known, or not as they should be. What was there of them is removed."""
        return [digest for digest in digests if not self._is_usable(digest)]

    def add(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Store what was made. Raises StoreFailure."""
        self._found[digest] = self._artifacts.add(digest, files)
        self._artifacts.write_note(digest, self._note(digest, self._found[digest]))

    def files(self, digest: str) -> dict[str, str]:
        """What a manifest is to state of an artifact that is not missing."""
        return dict(self._found[digest])

    def stated(self, digest: str) -> StatedArtifact:
        """An artifact that is not missing, to be read wherever it is needed."""
        return self._artifacts.stated(digest, self.files(digest))

    def read(self, digest: str) -> dict[str, bytes]:
        """Its files, verified as they are read. Raises DamagedArtifact or MissingArtifact."""
        return self.stated(digest).read()

    def _is_usable(self, digest: str) -> bool:
        try:
            if digest not in self._stated and not self._artifacts.has(digest):
                return False
            files = self._stated.get(digest) or self._vouched(digest)
            if files is not None:
                self._artifacts.verify(digest, files)  # every byte, each time: times may lie
                self._found[digest] = files
                return True
        except (DamagedArtifact, MissingArtifact) as failure:
            self._on_damage(StoreFault(self._artifacts.kind, digest, str(failure)))
        # It can be made again to the same bytes, so a damaged one is not worth refusing to build.
        self._artifacts.remove(digest)
        return False

    def _vouched(self, digest: str) -> Files | None:
        """The files that the note beside an artifact states; None without one, as after a death before it was written."""
        line = self._artifacts.note(digest)
        if line is None:
            return None
        try:
            files: dict[str, str] = json.loads(line)["files"]
            sound = hmac.compare_digest(line, self._note(digest, files))
        except (ValueError, TypeError, KeyError):
            sound = False
        if not sound:
            raise DamagedArtifact(f"{self._artifacts.kind} {digest}: the note beside it is not of this installation")
        return files

    def _note(self, digest: str, files: Files) -> str:
        said = canonical_json([self._artifacts.kind, digest, dict(files)])
        code = hmac.new(self._secret, said, hashlib.sha256).hexdigest()
        return canonical_json({"files": dict(files), "code": code}).decode()

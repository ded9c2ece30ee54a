"""The installation's secret, in the home folder: made once, never beside what was written under another, and rotated.

Files: `secret`; `secret.retired`, those from before a rotation, one a line in hex, for the tombstones of people whom nobody
can name any more; `secret.next`, while a rotation is under way.
"""

from __future__ import annotations

import binascii
import logging
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapters_store import sync_directory, write_once
from service.errors import InvalidInput, InvalidSetting
from service.forgetting.tombstones import TombstoneFile
from service.ledger import (
    KEY_ID_LENGTH,
    KeyedHashes,
    Rekeyed,
    known_check,
    rekey,
)

SHORTEST = 16  # bytes
_OTHERS = 0o077  # permissions of group and others

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secret and those that were retired; `given` where the environment holds it, and not the home folder."""

    present: bytes
    retired: tuple[bytes, ...]
    given: bool

    def hashes(self) -> KeyedHashes:
        return KeyedHashes(self.present, self.retired)


def key_id(secret: bytes) -> str:
    """How people tell secrets apart: hex digits that tell nothing else of it."""
    return KeyedHashes(secret).check()[:KEY_ID_LENGTH]


class SecretFiles:
    """The secret's files in the folder `home`. Raises InvalidSetting where one cannot be used, and OSError."""

    def __init__(self, home: Path, given: str | None = None, retired: tuple[str, ...] = ()) -> None:
        """`given` and `retired` come from the environment, and go before the files."""
        self._home = home
        self._given = given
        self._given_retired = tuple(text.encode() for text in retired)
        self._path, self._next = home / "secret", home / "secret.next"
        self._retired = home / "secret.retired"

    def open(self, beside: Callable[[], str | None]) -> Secrets:
        """The secret; a new one in a home where there is nothing yet.

        `beside` names what is there already that was written under a secret, or returns None.
        """
        if self._given is not None:
            return Secrets(self._given.encode(), self.retired(), given=True)
        if not self._path.exists():
            found = beside()
            # Another process may have made both meanwhile: the secret first.
            if found is not None and not self._path.exists():
                raise InvalidSetting(
                    f"there is no secret in the home folder, but {found}, which was written under one; a new secret would make "
                    "its tombstones void, and who was forgotten could come back. Put the file `secret` back from a backup, or "
                    "give it as LETHE_SECRET"
                )
            write_once(self._path, lambda: secrets.token_hex(32).encode())
        return Secrets(self._read(self._path), self.retired(), given=False)

    def retired(self) -> tuple[bytes, ...]:
        """Secrets from before rotations."""
        lines = self._read(self._retired).split() if self._retired.exists() else []
        try:
            return (*self._given_retired, *(bytes.fromhex(line.decode()) for line in lines))
        except (ValueError, binascii.Error):
            raise InvalidSetting(
                "secret.retired in the home folder is not sound (expected one secret a line, in hex); restore it from a backup"
            ) from None

    def rotate(self, ledger: str | Path, tombstones: Path) -> tuple[Secrets, Rekeyed]:
        """Carry ledger and tombstone file over to a new secret (a given one, where the environment gives it).

        Cut off anywhere, the next call goes on. Raises InvalidInput if the given secret is the ledger's already, and as
        `rekey`.
        """
        known = known_check(ledger)
        if self._given is not None:
            present = self._given.encode()
            if known in (None, KeyedHashes(present).check()):
                raise InvalidInput(
                    "the secret comes from LETHE_SECRET, and the ledger is of that secret already; stop all processes, set "
                    "LETHE_SECRET to the new one and LETHE_RETIRED_SECRETS to the old one, and run this again"
                )
            return self._carry(Secrets(present, self.retired(), given=True), ledger, tombstones)
        old = self._read(self._path)
        if known not in (None, KeyedHashes(old).check()) and not self._next.exists():
            # A ledger from before the last rotation was restored; or the secret is the wrong one, which this says.
            return self._carry(Secrets(old, self.retired(), given=False), ledger, tombstones)
        write_once(self._next, lambda: secrets.token_hex(32).encode())
        self._retire(old)
        carried = self._carry(Secrets(self._read(self._next), self.retired(), given=False), ledger, tombstones)
        os.replace(self._next, self._path)
        sync_directory(self._home)
        return carried

    def _carry(self, to: Secrets, ledger: str | Path, tombstones: Path) -> tuple[Secrets, Rekeyed]:
        file = TombstoneFile(tombstones, to.hashes())
        with file.locked():
            rekeyed = rekey(ledger, to.present, to.retired)
            file.add_tombstones(new for _, new in rekeyed.moved)
            file.remove(old for old, _ in rekeyed.moved)
        return to, rekeyed

    def _retire(self, secret: bytes) -> None:
        if secret in self.retired():
            return
        with os.fdopen(os.open(self._retired, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as file:
            file.write(f"{secret.hex()}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        sync_directory(self._home)

    def _read(self, path: Path) -> bytes:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & _OTHERS:
                os.fchmod(file.fileno(), mode & ~_OTHERS)
                log.warning(
                    "%s in the home folder was open to other users (mode %o); it is closed now. If anybody may have read it, "
                    "run `lethe secret rotate`",
                    path.name,
                    mode,
                )
            content = file.read()
        if len(content) < SHORTEST:
            raise InvalidSetting(
                f"{path.name} in the home folder holds {len(content)} bytes, and {SHORTEST} are the least; restore it from "
                "a backup"
            )
        return content

"""Keys of the store's directories, a row each, wrapped by a key that is not in the ledger.

A row that is removed is a key that is destroyed: what was sealed with it is noise from then on, wherever it lies. The row
without a directory's name is nobody's: what wrapped it wraps all others, so a wrong wrapping key is told at the start.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa

from adapters_store import NotOpened, new_key, unwrap, wrap
from service.errors import InvalidSetting, SecretChanged
from service.ledger import tables
from service.ledger.database import BUSY_SECONDS, Database
from service.ledger.statements import chunks, insert_new, upsert

_CHECK = ""  # no directory has this name
_c = tables.artifact_keys.c
_WRAPPED_BY_ANOTHER = (
    "the keys of the store were wrapped by another key than the one given here, so nothing of it can be read; put the key back "
    "(the file `store.key` in the home folder, or LETHE_STORE_KEY) from a backup. If it was being rotated, run `lethe secret "
    "rotate-store-key` again"
)


class ArtifactKeys:
    """Meets `adapters_store.DirectoryKeys` with one ledger. Every method is one transaction; each raises LedgerUnavailable.

    Once the wrapping key was rotated each raises SecretChanged.
    """

    def __init__(self, database: Database, wrapping_key: bytes) -> None:
        """Raises InvalidSetting if the ledger's keys are wrapped by another key."""
        self._database, self._wrapping_key = database, wrapping_key
        try:
            self.create(_CHECK)
        except SecretChanged:
            raise InvalidSetting(_WRAPPED_BY_ANOTHER) from None

    def __reduce__(self) -> NoReturn:
        raise TypeError("the key that wraps all others stays in its process; hand over the keys of single directories")

    def create(self, directory: str) -> bytes:
        """Return the directory's key (32 bytes), made now if there is none: of many who ask at once all get the same."""
        known = self.find(directory)
        if known is not None:
            return known
        row = {"directory": directory, "wrapped_key": wrap(self._wrapping_key, new_key()).hex()}
        with self._database.write_transaction() as connection:
            # Another process may have wrapped them anew since this one began.
            self._unwrapped(_read(connection, _CHECK) or row["wrapped_key"])
            insert_new(connection, tables.artifact_keys, [row])
            return self._unwrapped(_read(connection, directory) or row["wrapped_key"])

    def find(self, directory: str) -> bytes | None:
        """Return the directory's key, or None if there is none, or none any more."""
        with self._database.read_transaction() as connection:
            wrapped = _read(connection, directory)
        return None if wrapped is None else self._unwrapped(wrapped)

    def directories(self) -> frozenset[str]:
        """Return the directories that have a key."""
        with self._database.read_transaction() as connection:
            return frozenset(connection.scalars(sa.select(_c.directory))) - {_CHECK}

    def destroy(self, directories: Collection[str]) -> None:
        """Remove the keys of these directories. Their bytes leave the database's own files with `Ledger.erase_traces`."""
        if not directories:
            return
        with self._database.write_transaction() as connection:
            for some in chunks(sorted(directories)):
                connection.execute(sa.delete(tables.artifact_keys).where(_c.directory.in_(some)))

    def _unwrapped(self, wrapped: str) -> bytes:
        try:
            return _unwrapped(self._wrapping_key, wrapped)
        except NotOpened:
            raise SecretChanged(
                "the store key was rotated while this process ran; start it again, so that it reads the new one"
            ) from None


def rewrap(at: str | Path, present: bytes, new: bytes) -> int:
    """Wrap every key with `new` instead of `present`, and return how many that were.

    In one transaction; once more changes nothing. What the database's own files held before is overwritten. Raises
    InvalidSetting if another key has wrapped them, and as `Database`.
    """
    database = Database(at, BUSY_SECONDS)
    try:
        with database.write_transaction() as connection:
            rows = connection.execute(sa.select(_c.directory, _c.wrapped_key)).all()
            anew = {row.directory: _wrapped_by(new, present, row.wrapped_key) for row in rows}
            changed = [{"directory": name, "wrapped_key": wrapped} for name, wrapped in anew.items() if wrapped]
            upsert(connection, tables.artifact_keys, changed)
        database.erase_traces()
        return sum(row["directory"] != _CHECK for row in changed)
    except NotOpened:
        raise InvalidSetting(_WRAPPED_BY_ANOTHER) from None
    finally:
        database.close()


def any_keys(connection: sa.Connection) -> bool:
    """Whether a wrapping key has ever been used with this ledger."""
    return connection.execute(sa.select(_c.directory).limit(1)).first() is not None


def _read(connection: sa.Connection, directory: str) -> str | None:
    found: str | None = connection.scalar(sa.select(_c.wrapped_key).where(_c.directory == directory))
    return found


def _wrapped_by(new: bytes, present: bytes, wrapped: str) -> str | None:
    """A key that `present` has wrapped, wrapped by `new`; None if it is so already."""
    try:
        _unwrapped(new, wrapped)
        return None
    except NotOpened:
        return wrap(new, _unwrapped(present, wrapped)).hex()


def _unwrapped(wrapping_key: bytes, wrapped: str) -> bytes:
    return unwrap(wrapping_key, bytes.fromhex(wrapped))

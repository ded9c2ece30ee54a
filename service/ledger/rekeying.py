"""The ledger and its secret: to recognize a process with another one, and to carry the ledger over to a new one.

What is written under a secret: the hashes of people in tombstones, deletions and idempotency keys. Those of people who are
still held can be written anew, as their ids are known. Those of the forgotten cannot, as nobody knows whom they stand for:
they are recognized by the retired secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from service.errors import InvalidSetting, SecretChanged
from service.ledger import tables
from service.ledger.aside import users_aside
from service.ledger.database import BUSY_SECONDS, Database
from service.ledger.hashes import KeyedHashes
from service.ledger.restraints import add_restraints, read_restraints, remove_restraint
from service.ledger.state import read_state, set_state
from service.ledger.tombstones import (
    add_tombstones,
    held_users,
    read_tombstones,
    remove,
)
from service.records import Restraint, Tombstone

KEY_ID_LENGTH = 16  # hex digits of a check value, by which people tell secrets apart


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """What a rotation did: tombstones of people who are held (old, new), and how many others keep their retired secret."""

    moved: tuple[tuple[Tombstone, Tombstone], ...]
    kept: int


def check_secret(database: Database, hashes: KeyedHashes) -> None:
    """Note the secret in a ledger that knows none yet. Raises InvalidSetting if it knows another."""
    with database.read_transaction() as connection:
        known = read_state(connection).secret_check
    if known is None:
        with database.write_transaction() as connection:
            known = read_state(connection).secret_check
            if known is None:
                set_state(connection, secret_check=hashes.check())
                return
    if known == hashes.check():
        return
    retired = any(known == earlier.check() for earlier in hashes.retired)
    raise InvalidSetting(
        f"the ledger was written under another secret (key id {known[:KEY_ID_LENGTH]}) than the one given here "
        f"(key id {hashes.check()[:KEY_ID_LENGTH]}); no tombstone would recognize anybody, and who was forgotten could "
        + (
            "come back. The ledger's is a retired secret: run `lethe secret rotate` to carry the ledger over to this one"
            if retired
            else "come back. Put the ledger's secret back (the file `secret` in the home folder, or LETHE_SECRET) from a "
            "backup; if a rotation was cut off, run `lethe secret rotate` again"
        )
    )


def require_secret(connection: sa.Connection, hashes: KeyedHashes) -> None:
    """To be asked in every transaction that writes. Raises SecretChanged."""
    known = connection.scalar(sa.select(tables.state.c.secret_check))
    if known not in (None, hashes.check()):
        raise SecretChanged(
            "the secret was rotated while this process ran; start it again, so that it reads the new one"
        )


def known_check(at: str | Path) -> str | None:
    """The check value that a ledger holds. Raises as `Database`."""
    database = Database(at, BUSY_SECONDS)
    try:
        with database.read_transaction() as connection:
            check: str | None = read_state(connection).secret_check
            return check
    finally:
        database.close()


def rekey(at: str | Path, secret: bytes, retired: Sequence[bytes]) -> Rekeyed:
    """Carry the ledger over to `secret` from one of the retired, in one transaction; once more changes nothing.

    From then on, processes that hold an older one can write no more. Raises InvalidSetting if the ledger's secret is none
    of these, and as `Database`.
    """
    hashes = KeyedHashes(secret, retired)
    database = Database(at, BUSY_SECONDS)
    try:
        with database.write_transaction() as connection:
            known = read_state(connection).secret_check
            if known not in (None, *(keyed.check() for keyed in hashes.every())):
                raise InvalidSetting(
                    f"the ledger's secret (key id {known[:KEY_ID_LENGTH]}) is neither the new one nor a retired one; "
                    "put it back first"
                )
            before = len(read_tombstones(connection))
            moved = _move(connection, hashes)
            _move_restraints(connection, hashes)
            set_state(connection, secret_check=hashes.check())
            return Rekeyed(moved, before - len(moved))
    finally:
        database.close()


def _move(connection: sa.Connection, hashes: KeyedHashes) -> tuple[tuple[Tombstone, Tombstone], ...]:
    """Write anew the tombstones of single items of people who are held, where the item is still known."""
    by_subject: dict[str, list[Tombstone]] = {}
    for stone in read_tombstones(connection):
        by_subject.setdefault(stone.subject, []).append(stone)
    if not by_subject:
        return ()
    items = list(connection.scalars(sa.select(tables.items.c.item_id)))
    moved = []
    for user_id in held_users(connection):
        for keyed in hashes.retired:
            old = keyed.subject(user_id)
            if old in by_subject:
                scope_hashes = {keyed.scope_hash(old, item): item for item in items}
                moved += [
                    _moved(stone, user_id, scope_hashes, hashes)
                    for stone in by_subject[old]
                    if stone.scope_hash in scope_hashes
                ]
    remove(connection, [old for old, _ in moved])
    add_tombstones(connection, [new for _, new in moved])
    return tuple(moved)


def _move_restraints(connection: sa.Connection, hashes: KeyedHashes) -> None:
    """Write anew those over people who are held; the tombstone file knows them by their ids, and keeps the old hash."""
    by_subject: dict[str, list[Restraint]] = {}
    for restraint in read_restraints(connection):
        by_subject.setdefault(restraint.subject, []).append(restraint)
    if not by_subject:
        return
    for user_id in {*held_users(connection), *users_aside(connection)}:
        old = [subject for keyed in hashes.retired for subject in keyed.subjects(user_id) if subject in by_subject]
        for restraint in (one for subject in old for one in by_subject[subject]):
            remove_restraint(connection, restraint.restraint_id)
            add_restraints(connection, [replace(restraint, subject=hashes.subject(user_id))])


def _moved(
    stone: Tombstone, user_id: str, scope_hashes: dict[str, str], hashes: KeyedHashes
) -> tuple[Tombstone, Tombstone]:
    subject = hashes.subject(user_id)
    return stone, replace(stone, subject=subject, scope_hash=hashes.scope_hash(subject, scope_hashes[stone.scope_hash]))

"""Whose data is restricted, or under a legal hold: by keyed hashes, as it may be known of people of whom nothing is held."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, fields

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.hashes import KeyedHashes
from service.ledger.statements import chunks, count, upsert
from service.records import Restraint, RestraintKind

_c = tables.restraints.c


def read_restraints(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Restraint]:
    """The restraints that meet all conditions, in a fixed order."""
    columns = (_c[field.name] for field in fields(Restraint))
    found = connection.execute(sa.select(*columns).where(*conditions).order_by(_c.subject, _c.kind))
    return [Restraint(*row) for row in found]


def restraint_of(connection: sa.Connection, subjects: Collection[str], kind: RestraintKind) -> Restraint | None:
    """The restraint of this kind that stands over somebody, known by any of these hashes."""
    found = read_restraints(connection, _c.subject.in_(subjects), _c.kind == kind)
    return found[0] if found else None


def add_restraints(connection: sa.Connection, restraints: Iterable[Restraint]) -> None:
    """Set restraints; of two of one kind over one person the later stays."""
    upsert(connection, tables.restraints, [asdict(restraint) for restraint in restraints])


def remove_restraint(connection: sa.Connection, restraint_id: str) -> None:
    """Remove a restraint, if it is there."""
    connection.execute(sa.delete(tables.restraints).where(_c.restraint_id == restraint_id))


def restricted_among(connection: sa.Connection, subjects: Mapping[str, str], hashes: KeyedHashes) -> set[str]:
    """Those of these users (id -> keyed hash) whose data is restricted."""
    return set(_restrictions(connection, subjects, hashes))


def restricted_since(
    connection: sa.Connection, fence: int, users: Collection[str], hashes: KeyedHashes
) -> dict[str, str]:
    """User -> id of their restriction, of those of these users whose data was restricted after `fence`."""
    if not connection.scalar(sa.select(sa.func.count()).where(_c.kind == "restriction", _c.fence > fence)):
        return {}  # as a rule; then nobody need be hashed
    found = _restrictions(connection, {user: hashes.subject(user) for user in users}, hashes)
    return {user: restriction.restraint_id for user, restriction in found.items() if restriction.fence > fence}


def _restrictions(connection: sa.Connection, subjects: Mapping[str, str], hashes: KeyedHashes) -> dict[str, Restraint]:
    standing = count(connection, tables.restraints) if subjects else 0
    if not standing:
        return {}
    known_as = {
        subject: user
        for user, own in subjects.items()
        for subject in ((own,) if user.isascii() and not hashes.retired else hashes.subjects(user))
    }
    if standing <= len(known_as):
        found = read_restraints(connection, _c.kind == "restriction")
    else:
        found = [
            one
            for some in chunks(known_as)
            for one in read_restraints(connection, _c.subject.in_(some), _c.kind == "restriction")
        ]
    return {known_as[one.subject]: one for one in found if one.subject in known_as}

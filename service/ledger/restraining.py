"""Restriction, objection and legal hold (Art. 18, 21 and 17 (3) of the GDPR): each change is one transaction.

A restriction moves the person's rows aside (`aside`) and masks what has seen them, as a deletion does; lifted, it moves them
back. A hold changes nothing until a deletion comes: what that would erase is set aside then, and erased at the release.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import sqlalchemy as sa

from service.errors import InvalidInput
from service.ledger import aside, audit, impressions, requests, tables
from service.ledger.catalog import created_of, drop_unnamed
from service.ledger.database import Database
from service.ledger.hashes import KeyedHashes
from service.ledger.masks import add_masks, drop_masks
from service.ledger.placements import mark_changed
from service.ledger.restraints import (
    add_restraints,
    read_restraints,
    remove_restraint,
    restraint_of,
)
from service.ledger.state import raise_revision, read_state
from service.ledger.statements import is_storable, keyed
from service.ledger.tombstones import held_users
from service.records import COMMAND_LINE, Key, Requester, Restraint, RestraintKind, RestrictionGround

LONGEST_GROUND = 200  # characters


@dataclass(frozen=True, slots=True)
class RestraintStatus:
    """A restraint, how many rows it keeps that are used for nothing, and whether what is served was built without them."""

    restraint: Restraint
    rows: int
    built: bool


@dataclass(frozen=True, slots=True)
class Lifted:
    """What the end of a restraint did: the rows that count again, and the deletions that are carried out now."""

    restraint: Restraint | None  # None: there was none
    rows: int = 0
    requests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Person:
    user_id: Key
    subject: str
    subjects: tuple[str, ...]

    @classmethod
    def of(cls, user_id: str, hashes: KeyedHashes) -> Self:
        key = keyed(user_id)
        return cls(key, hashes.subject(key), hashes.subjects(key))


class RestraintBook:
    """The restraints of one ledger. Every method is one transaction; each raises InvalidInput for what is no id."""

    def __init__(self, database: Database, hashes: KeyedHashes, clock: Callable[[], float]) -> None:
        self._database = database
        self._hashes = hashes
        self._clock = clock

    def status(self, user_id: str, kind: RestraintKind) -> RestraintStatus | None:
        """What stands over a person; None: nothing of this kind."""
        person = _Person.of(user_id, self._hashes)
        with self._database.read_transaction() as connection:
            return _status(connection, person, kind)

    def restrict(self, user_id: str, ground: RestrictionGround, by: Requester = COMMAND_LINE) -> RestraintStatus:
        """Leave a person out of answers and masks at once, and of all that is built from now on; their rows are kept.

        Once more changes the ground alone. It also stands over somebody of whom nothing is held: rows of theirs are refused.
        """
        person = _Person.of(user_id, self._hashes)
        with self._changing() as connection:
            standing = restraint_of(connection, person.subjects, "restriction")
            if standing is None:
                self._restrict(connection, person, self._new(person, "restriction", ground))
            else:
                add_restraints(connection, [replace(standing, ground=ground)])
            self._note(connection, person, "restrict", by)
            return _told(_status(connection, person, "restriction"))

    def lift_restriction(self, user_id: str, by: Requester = COMMAND_LINE) -> Lifted:
        """Let a person's rows count again, where they counted before."""
        person = _Person.of(user_id, self._hashes)
        with self._changing() as connection:
            standing = restraint_of(connection, person.subjects, "restriction")
            if standing is None:
                return Lifted(None)
            self._note(connection, person, "restrict.lift", by)
            return Lifted(standing, self._lift(connection, person.user_id, standing))

    def hold(self, user_id: str, ground: str, by: Requester = COMMAND_LINE) -> RestraintStatus:
        """From now on erase nothing of a person: deletions are held. Once more changes the ground alone."""
        if not 0 < len(ground) <= LONGEST_GROUND or not is_storable(ground):
            raise InvalidInput(f"a hold needs a ground: a text of 1 to {LONGEST_GROUND} characters")
        person = _Person.of(user_id, self._hashes)
        with self._changing() as connection:
            standing = restraint_of(connection, person.subjects, "hold") or self._new(person, "hold", ground)
            add_restraints(connection, [replace(standing, ground=ground)])
            self._note(connection, person, "hold", by)
            return _told(_status(connection, person, "hold"))

    def release_hold(self, user_id: str, by: Requester = COMMAND_LINE) -> Lifted:
        """Erase what deletions would have erased that came meanwhile; a worker completes them."""
        person = _Person.of(user_id, self._hashes)
        with self._changing() as connection:
            standing = restraint_of(connection, person.subjects, "hold")
            if standing is None:
                return Lifted(None)
            self._note(connection, person, "hold.release", by)
            return Lifted(standing, requests=self._release(connection, person.subjects, standing))

    def standing(self) -> list[Restraint]:
        """Every restraint."""
        with self._database.read_transaction() as connection:
            return read_restraints(connection)

    def restore(self, known: Sequence[Restraint], ended: Collection[str]) -> tuple[int, list[Restraint]]:
        """Bring a ledger that may be an old one in line with what stands elsewhere, and with what has ended since.

        Returns how many it lacked or had too many, and those that it holds and are not known. Who is restricted is left out
        at once; a hold whose ledger is lost has no ground any more.
        """
        with self._changing() as connection:
            here = read_restraints(connection)
            over = [one for one in here if one.restraint_id in ended]
            for restraint in over:
                self._end(connection, restraint)
            stays = [one for one in here if one.restraint_id not in ended]
            ids, taken = {one.restraint_id for one in stays}, {(one.subject, one.kind) for one in stays}
            # After a rotation one and the same may be known by two hashes.
            missing = [one for one in known if one.restraint_id not in ids and (one.subject, one.kind) not in taken]
            self._set_again(connection, missing)
            names = {one.restraint_id for one in known}
            unknown = [one for one in read_restraints(connection) if one.restraint_id not in names]
            return len(over) + len(missing), unknown

    @contextmanager
    def _changing(self) -> Iterator[sa.Connection]:
        with self._database.write_transaction() as connection:
            yield connection
            sys.audit("lethe.restraint.before_commit")
        sys.audit("lethe.restraint.after_commit")

    def _new(self, person: _Person, kind: RestraintKind, ground: str) -> Restraint:
        return Restraint(person.subject, kind, uuid.uuid4().hex, ground, self._clock())

    def _note(self, connection: sa.Connection, person: _Person, action: str, by: Requester) -> None:
        event = audit.AuditEvent(self._clock(), by.actor, action, "done", subject=person.subject, address=by.address)
        audit.append(connection, self._hashes, event)

    def _restrict(self, connection: sa.Connection, person: _Person, restriction: Restraint) -> None:
        """Set it, and set aside what is held. The lineage stays: when it is lifted, what has seen the person still has."""
        lineage = connection.execute(sa.select(tables.lineage).where(tables.lineage.c.user_id == person.user_id)).all()
        created = created_of(connection, person.user_id)
        held = bool(aside.items_held(connection, person.user_id))
        aside.set_aside(connection, person.user_id, None, aside.RESTRICTED)
        impressions.set_aside(connection, person.user_id, None, aside.RESTRICTED)
        mark_changed(connection, [person.user_id])
        drop_unnamed(connection, created)
        fence = int(read_state(connection).fence) + (held or bool(lineage))
        add_restraints(connection, [replace(restriction, fence=fence)])
        add_masks(connection, [(seen.kind, seen.key, restriction.restraint_id) for seen in lineage])
        if held or lineage:
            raise_revision(connection, fence=fence, restrained=fence)

    def _lift(self, connection: sa.Connection, user_id: str, restriction: Restraint) -> int:
        remove_restraint(connection, restriction.restraint_id)
        masked = drop_masks(connection, restriction.restraint_id)
        rows = aside.put_back(connection, user_id)
        impressions.put_back(connection, user_id)
        if rows or masked:
            mark_changed(connection, [user_id])
            fence = int(read_state(connection).fence) + 1
            raise_revision(connection, fence=fence, restrained=fence)
        return rows

    def _release(self, connection: sa.Connection, subjects: Collection[str], hold: Restraint) -> tuple[str, ...]:
        remove_restraint(connection, hold.restraint_id)
        c = tables.forget_requests.c
        held = requests.find_requests(connection, c.subject.in_(subjects), c.state == "held")
        ids = tuple(request.request_id for request in held)
        aside.erase_held(connection, ids)
        impressions.erase_held(connection, ids)
        requests.release(connection, ids, self._clock())
        return ids

    def _end(self, connection: sa.Connection, restraint: Restraint) -> None:
        """End it where only the hash of the person is known, unless rows of theirs are set aside."""
        users = sorted(aside.users_aside(connection))
        named = next((user for user in users if restraint.subject in self._hashes.subjects(user)), None)
        if restraint.kind == "hold":
            subjects = (restraint.subject,) if named is None else self._hashes.subjects(named)
            self._release(connection, subjects, restraint)
        elif named is not None:
            self._lift(connection, named, restraint)
        else:
            remove_restraint(connection, restraint.restraint_id)

    def _set_again(self, connection: sa.Connection, missing: Sequence[Restraint]) -> None:
        add_restraints(connection, missing)
        restrictions = {one.subject: one for one in missing if one.kind == "restriction"}
        for user in list(held_users(connection)) if restrictions else ():
            for subject in self._hashes.subjects(user):
                if subject in restrictions:
                    self._restrict(connection, _Person.of(user, self._hashes), restrictions[subject])


def _status(connection: sa.Connection, person: _Person, kind: RestraintKind) -> RestraintStatus | None:
    restraint = restraint_of(connection, person.subjects, kind)
    if restraint is None:
        return None
    state = read_state(connection)
    built = state.generation is None or restraint.fence <= state.published_fence
    restricted = kind == "restriction"
    kept = [
        row for row in aside.rows_of(connection, person.user_id) if (row.request_id == aside.RESTRICTED) == restricted
    ]
    return RestraintStatus(restraint, len(kept), built)


def _told(status: RestraintStatus | None) -> RestraintStatus:
    if status is None:  # it was written in this transaction
        raise LookupError("a restraint that was just set is not there")
    return status

"""What builds remember of each unit: its path in the public tree, how many samples it has, and their digest.

All of it is a pure function of one user's rows, of the items in them, and of a fingerprint (all that is not theirs: model,
anchors, configuration), whose digest stands in the state. The transaction that changes a user's rows drops what is remembered
of that user and notes the user under `changes`; only those are read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.state import raise_revision, read_state
from service.ledger.statements import chunks, insert_new
from service.records import ShardAssignment

VALIDATES = ""  # the path of whose samples validate
MEMORIZED = ("m", "v")  # begin the paths of users in memories: of those who train, and of those who validate

_COMMA = ","  # neither paths nor digests hold one
_SIXTEENTHS = tuple(f"{n:04b}" for n in range(16))
_AFTER = "2"  # stands behind every path of bits
# They divide all paths: one text may not hold more than a gigabyte.
_TRAINING_BOUNDS = ("", *_SIXTEENTHS[1:], _AFTER)
_MEMORY_BOUNDS = (*(kind + bits for kind in MEMORIZED for bits in _SIXTEENTHS), MEMORIZED[-1] + _AFTER)
_p = tables.placements.c
_changes = tables.changes.c

Whose = sa.ColumnElement[bool]  # a condition on the user of a place
EVERYBODYS: Whose = sa.true()


@dataclass(frozen=True, slots=True)
class AssignmentColumns:
    """Units in order of their paths. Columns: a million objects of their own would not be light."""

    paths: list[str]
    samples: list[int]
    digests: list[str]


def held_users(connection: sa.Connection, users: Iterable[str]) -> set[str]:
    """Those of whom interactions are held."""
    user_id, held = tables.interactions.c.user_id, set[str]()
    for chunk in chunks(users):
        held.update(connection.scalars(sa.select(user_id).where(user_id.in_(chunk)).distinct()))
    return held


def mark_changed(connection: sa.Connection, users: Iterable[str]) -> None:
    """Forget what is remembered of these users, so that the next build reads them. The caller raises the revision."""
    chosen = list(users)
    for chunk in chunks(chosen):
        for table in (tables.placements, tables.changes):
            connection.execute(sa.delete(table).where(table.c.user_id.in_(chunk)))
    revision = _next_revision(connection)
    insert_new(
        connection, tables.changes, [{"user_id": u, "revision": revision} for u in held_users(connection, chosen)]
    )


def mark_readers_changed(connection: sa.Connection, items: Iterable[str]) -> None:
    """Note that everybody who has met these items is changed: their prompts name them."""
    c, readers = tables.interactions.c, set[str]()
    for chunk in chunks(items):
        readers.update(connection.scalars(sa.select(c.user_id).where(c.item_id.in_(chunk)).distinct()))
    mark_changed(connection, readers)


def begin_fingerprint(connection: sa.Connection, fingerprint: str) -> None:
    """Forget what is remembered of everybody: from now on it is remembered under this fingerprint."""
    connection.execute(sa.delete(tables.placements))
    connection.execute(sa.delete(tables.changes))
    revision = sa.literal(_next_revision(connection)).label("revision")
    everybody = sa.select(tables.interactions.c.user_id, revision).distinct()
    connection.execute(sa.insert(tables.changes).from_select(["user_id", "revision"], everybody))
    raise_revision(connection, fingerprint=fingerprint)


def read_changed(
    connection: sa.Connection, after: str | None, limit: int | None, others: sa.CompoundSelect[str] | None = None
) -> dict[str, int]:
    """Users to be read again -> the revision at which they changed: the first after `after`, in order.

    `others` are to be read again, too; of them the revision is that of now.
    """
    changed: sa.Select[str, int] | sa.CompoundSelect[Any] = sa.select(_changes.user_id, _changes.revision)
    if others is not None:
        o = others.subquery("others").c
        known = sa.select(_changes.user_id)
        now = sa.literal(_next_revision(connection)).label("revision")
        changed = sa.union_all(changed, sa.select(o.user_id, now).where(o.user_id.not_in(known)))
    c = changed.subquery("changed").c
    query = sa.select(c.user_id, c.revision).order_by(c.user_id).limit(limit)
    rows = connection.execute(query if after is None else query.where(c.user_id > after))
    return {row.user_id: row.revision for row in rows}


def save_assignments(
    connection: sa.Connection, changed: Mapping[str, int], assignments: Sequence[ShardAssignment]
) -> None:
    """Remember these places of these users, but for those who changed again or left since `changed` was read."""
    same: set[str] = set()
    for chunk in chunks(changed):
        for row in connection.execute(sa.select(tables.changes).where(_changes.user_id.in_(chunk))):
            if row.revision == changed[row.user_id]:
                same.add(row.user_id)
    for chunk in chunks(same):
        connection.execute(sa.delete(tables.changes).where(_changes.user_id.in_(chunk)))
    insert_new(
        connection, tables.placements, [_row_of(assignment) for assignment in assignments if assignment.user_id in same]
    )


def read_columns(connection: sa.Connection, whose: Whose = EVERYBODYS) -> AssignmentColumns:
    """The remembered assignments of all units that train, in columns."""
    return _read_between(connection, _TRAINING_BOUNDS, whose)


def read_memory_columns(connection: sa.Connection, whose: Whose = EVERYBODYS) -> AssignmentColumns:
    """The remembered assignments of everybody's parts in memories, in columns."""
    return _read_between(connection, _MEMORY_BOUNDS, whose)


def _read_between(connection: sa.Connection, bounds: Sequence[str], whose: Whose) -> AssignmentColumns:
    found = AssignmentColumns([], [], [])
    for first, end in pairwise(bounds):
        paths, samples, digests = connection.execute(_joined_columns(first, end, whose)).one()
        if paths is not None:
            found.paths.extend(paths.split(_COMMA))
            found.samples.extend(map(int, samples.split(_COMMA)))
            found.digests.extend(digests.split(_COMMA))
    return found


def _joined_columns(first: str, end: str, whose: Whose) -> sa.Select[Any, Any, Any]:
    """The units that have first <= path < end and do not validate, one text a column: rows would take twice as long.

    An aggregate takes what an ordered subquery gives it in that order, on both databases.
    """
    units = sa.select(_p.path, sa.cast(_p.samples, sa.Text).label("samples"), _p.digest)
    chosen = units.where(_p.path > VALIDATES, _p.path >= first, _p.path < end, whose)
    c = chosen.order_by(_p.path, _p.unit_key).subquery().c
    paths, samples, digests = (sa.func.aggregate_strings(column, _COMMA) for column in (c.path, c.samples, c.digest))
    return sa.select(paths, samples, digests)


def read_under(connection: sa.Connection, node: str, whose: Whose = EVERYBODYS) -> list[ShardAssignment]:
    """The units at and below a node of the tree."""
    return _assignments(connection, _p.path > VALIDATES, _p.path >= node, _p.path < node + _AFTER, whose)


def read_validating(connection: sa.Connection, whose: Whose = EVERYBODYS) -> list[ShardAssignment]:
    """The users whose samples validate."""
    return _assignments(connection, _p.path == VALIDATES, whose)


def of_others(users: sa.CompoundSelect[str]) -> Whose:
    """The condition that a place is of nobody whom a query finds."""
    return _p.user_id.not_in(users)


def _assignments(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> list[ShardAssignment]:
    query = sa.select(_p.unit_key, _p.user_id, _p.path, _p.samples, _p.digest).where(*which)
    return [ShardAssignment(*row) for row in connection.execute(query.order_by(_p.path, _p.unit_key))]


def _row_of(assignment: ShardAssignment) -> dict[str, Any]:
    # By hand: `asdict` copies every value, and there may be millions.
    return {
        "path": assignment.path,
        "unit_key": assignment.unit_key,
        "user_id": assignment.user_id,
        "samples": assignment.samples,
        "digest": assignment.digest,
    }


def _next_revision(connection: sa.Connection) -> int:
    return int(read_state(connection).revision) + 1

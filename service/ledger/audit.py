"""The audit trail: who did what, when, from where, and how it ended. Entries are appended, and chained by keyed digests.

The chain holds salted digests of a person's hash and of an address, not these themselves. So both can be removed from an entry,
salts and all, when the person's deletion is completed, and the chain still verifies. A chain that was cut off at its end looks
whole: keep the newest digest elsewhere (`lethe audit --verify` prints it).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.database import Database
from service.ledger.hashes import KeyedHashes
from service.ledger.statements import Row, chunks

BEGINNING = ""  # what the first entry of all has for the digest before it
RECTIFICATION = "rectify"  # the action of an accepted rectification
MERGE = "merge"  # the action of an accepted merge of one user into another
DELETION = "forget"  # the action of an accepted deletion
_c = tables.audit_log.c


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """What is to be noted. `actor` is a key's id, or a word for who needs none; `subject` the keyed hash of a person."""

    at: float
    actor: str
    action: str
    outcome: str
    request_id: str | None = None
    subject: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An event as it stands in the trail. `subject` and `address` are None where there was none, or it was removed."""

    seq: int
    event: AuditEvent
    digest: str


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """What a look at the whole chain found. `newest` is to be kept elsewhere: it shows later that no end was cut off."""

    entries: int
    first: int | None
    last: int | None
    newest: str
    faults: tuple[str, ...]


def append(connection: sa.Connection, hashes: KeyedHashes, event: AuditEvent) -> None:
    """Note an event, within the transaction of what it tells of."""
    last = connection.execute(sa.select(_c.seq, _c.digest).order_by(_c.seq.desc()).limit(1)).first()
    row = {
        "seq": 1 if last is None else last.seq + 1,
        "at": event.at,
        "actor": event.actor,
        "action": event.action,
        "outcome": event.outcome,
        "request_id": event.request_id,
        "previous": BEGINNING if last is None else last.digest,
        **_salted("subject", event.subject),
        **_salted("address", event.address),
    }
    connection.execute(sa.insert(tables.audit_log).values(row | {"digest": _digest(row, hashes)}))


def remove_person(connection: sa.Connection, subjects: Collection[str], kept_request: str) -> None:
    """Take these hashes of one person, and the addresses beside them, out of all entries but those of `kept_request`."""
    gone = dict.fromkeys(("subject", "subject_salt", "address", "address_salt"))
    others = sa.or_(_c.request_id.is_(None), _c.request_id != kept_request)
    for chunk in chunks(subjects):
        connection.execute(sa.update(tables.audit_log).where(_c.subject.in_(chunk), others).values(gone))


class AuditTrail:
    """The trail of one ledger. Every method is one transaction; each raises LedgerUnavailable."""

    def __init__(self, database: Database, hashes: KeyedHashes, clock: Callable[[], float]) -> None:
        self._database = database
        self._hashes = hashes
        self._clock = clock

    def note(
        self, actor: str, action: str, outcome: str, request_id: str | None = None, address: str | None = None
    ) -> None:
        """Note what no other transaction notes."""
        with self._database.write_transaction() as connection:
            event = AuditEvent(self._clock(), actor, action, outcome, request_id, address=address)
            append(connection, self._hashes, event)

    def entries(self, limit: int, actor: str | None = None, action: str | None = None) -> list[AuditEntry]:
        """The newest entries that match, the oldest of them first."""
        query = sa.select(tables.audit_log).order_by(_c.seq.desc()).limit(limit)
        for column, wanted in ((_c.actor, actor), (_c.action, action)):
            query = query if wanted is None else query.where(column == wanted)
        with self._database.read_transaction() as connection:
            return [_entry(row) for row in reversed(connection.execute(query).all())]

    def prune(self, days: float) -> int:
        """Remove entries that are older, and say how many. The chain then begins with what is left."""
        with self._database.write_transaction() as connection:
            oldest_kept = sa.select(sa.func.min(_c.seq)).where(_c.at >= self._clock() - 86_400 * days)
            first = connection.scalar(oldest_kept)
            # The newest always stays, so that numbers and digests go on from it.
            newest = connection.scalar(sa.select(sa.func.max(_c.seq)))
            if newest is None:
                return 0
            gone = sa.delete(tables.audit_log).where(_c.seq < (newest if first is None else first))
            return connection.execute(gone).rowcount

    def check(self) -> ChainCheck:
        """Compute every digest anew."""
        with self._database.read_transaction() as connection:
            rows = connection.execute(sa.select(tables.audit_log).order_by(_c.seq)).all()
        faults = tuple(self._faults(rows))
        if not rows:
            return ChainCheck(0, None, None, BEGINNING, ())
        return ChainCheck(len(rows), rows[0].seq, rows[-1].seq, rows[-1].digest, faults)

    def _faults(self, rows: Sequence[Row]) -> Iterator[str]:
        before: Row | None = None
        for row in rows:
            if before is not None and row.seq != before.seq + 1:
                yield f"entries {before.seq + 1} to {row.seq - 1} are missing"
            elif before is not None and row.previous != before.digest:
                yield f"entry {row.seq} does not follow entry {before.seq}"
            if before is None and row.seq == 1 and row.previous != BEGINNING:
                yield "entry 1 is not the first"
            if not self._is_sound(row):
                yield f"entry {row.seq} was changed"
            before = row

    def _is_sound(self, row: Row) -> bool:
        own = dict(row._mapping)
        for name in ("subject", "address"):
            value, salt = own[name], own[f"{name}_salt"]
            if value is not None and _salted_digest(value, salt or "") != own[f"{name}_digest"]:
                return False
        return any(_digest(own, hashes) == row.digest for hashes in self._hashes.every())


def _salted(name: str, value: str | None) -> dict[str, str | None]:
    salt = None if value is None else secrets.token_hex(16)
    # Without the salt, which goes with the value, nobody can try out which value it was.
    digest = secrets.token_hex(32) if value is None or salt is None else _salted_digest(value, salt)
    return {name: value, f"{name}_salt": salt, f"{name}_digest": digest}


def _salted_digest(value: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}:{value}".encode()).hexdigest()


def _digest(row: dict[str, object], hashes: KeyedHashes) -> str:
    named = ("seq", "at", "actor", "action", "outcome", "request_id", "subject_digest", "address_digest", "previous")
    return hashes.of("audit", *(repr(row[name]) for name in named))


def _entry(row: Row) -> AuditEntry:
    event = AuditEvent(row.at, row.actor, row.action, row.outcome, row.request_id, row.subject, row.address)
    return AuditEntry(row.seq, event, row.digest)

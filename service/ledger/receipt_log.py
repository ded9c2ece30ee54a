"""The log of receipts: one entry for each, in the order of completion, appended and never changed (RFC 9162).

An entry is SHA-256(salt, SHA-256(receipt)), so it says nothing to anybody who has not been given the salt. That stands beside
the receipt, with the number of its entry; the log itself names neither a request nor a person, and nothing of it has to be
erased, whatever becomes of receipts.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from service.errors import InvalidInput, UnknownRequest
from service.ledger import tables
from service.ledger.database import Database
from service.ledger.merkle import (
    consistency_path,
    filled_by,
    inclusion_path,
    leaf_hash,
    root_hash,
)

SALT_BYTES = 32
_nodes = tables.receipt_log
_logged = tables.logged_receipts


@dataclass(frozen=True, slots=True)
class TreeHead:
    """How many entries the log has, and the root hash over them."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Inclusion:
    """What shows that a receipt is entry number `index`, together with the head that it was asked for."""

    index: int
    salt: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Consistency:
    """What shows that a head goes on from the one over the `first` entries."""

    first: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LogCheck:
    """What a look at the whole log found. The head is of use where there are no faults."""

    head: TreeHead
    receipts: int
    faults: tuple[str, ...]


def entry_of(salt: bytes, receipt_digest: bytes) -> bytes:
    """What stands in the log for a signed receipt with this SHA-256, byte for byte as it was signed."""
    return hashlib.sha256(salt + receipt_digest).digest()


def append(connection: sa.Connection, request_id: str, receipt: str) -> None:
    """Enter a receipt, within the transaction that completes its request. To be called once for each."""
    salt, index = secrets.token_bytes(SALT_BYTES), _size(connection)
    leaf = _leaf(salt, receipt)
    connection.execute(sa.insert(_nodes).values(level=0, position=index, hash=leaf.hex()))
    full = [
        {"level": level, "position": position, "hash": made.hex()}
        for level, position, made in filled_by(_Stored(connection), index)
    ]
    if full:
        connection.execute(sa.insert(_nodes), full)
    connection.execute(sa.insert(_logged).values(request_id=request_id, position=index, salt=salt.hex()))


class ReceiptLog:
    """The log of one ledger. Every method is one transaction; each raises LedgerUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def head(self, size: int | None = None) -> TreeHead:
        """The head of now, or as it was at an earlier size. Raises InvalidInput for a size that the log does not have."""
        with self._database.read_transaction() as connection:
            return _head(connection, size)

    def prove_inclusion(self, request_id: str, size: int | None = None) -> tuple[TreeHead, Inclusion]:
        """That the receipt of a request is in the log. Raises UnknownRequest if it is not, and InvalidInput."""
        with self._database.read_transaction() as connection:
            entry = connection.execute(sa.select(_logged).where(_logged.c.request_id == request_id)).first()
            if entry is None:
                raise UnknownRequest("no receipt of this request is in the log")
            head = _head(connection, size)
            if entry.position >= head.size:
                raise InvalidInput(
                    f"the receipt came into the log later: it is number {entry.position}, counted from 0"
                )
            path = inclusion_path(_Stored(connection), entry.position, head.size)
            return head, Inclusion(entry.position, bytes.fromhex(entry.salt), tuple(path))

    def prove_consistency(self, first: int, size: int | None = None) -> tuple[TreeHead, Consistency]:
        """That the log at `size` (now) begins with all that it held at `first`. Raises InvalidInput."""
        with self._database.read_transaction() as connection:
            head = _head(connection, size)
            if not 0 <= first <= head.size:
                raise InvalidInput(f"the first size is not between 0 and {head.size}")
            return head, Consistency(first, tuple(consistency_path(_Stored(connection), first, head.size)))

    def check(self) -> LogCheck:
        """Compute every hash anew, and look for the entry of every receipt that is held."""
        with self._database.read_transaction() as connection:
            stored = {
                (row.level, row.position): bytes.fromhex(row.hash) for row in connection.execute(sa.select(_nodes))
            }
            claims, faults = _claims(connection)
        leaves = sum(level == 0 for level, _ in stored)
        faults += [*_faults_of_tree(stored, leaves), *_faults_of_claims(stored, claims)]
        root = b"" if faults else root_hash(lambda *place: stored[place], leaves)
        return LogCheck(TreeHead(leaves, root), len(claims), tuple(faults))


@dataclass(frozen=True, slots=True)
class _Claim:
    request_id: str
    position: int
    leaf: bytes


class _Stored:
    """The hashes of full subtrees, as they are kept."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def __call__(self, level: int, position: int) -> bytes:
        place = (_nodes.c.level == level, _nodes.c.position == position)
        return bytes.fromhex(self._connection.execute(sa.select(_nodes.c.hash).where(*place)).scalar_one())


def _leaf(salt: bytes, receipt: str) -> bytes:
    return leaf_hash(entry_of(salt, hashlib.sha256(receipt.encode()).digest()))


def _size(connection: sa.Connection) -> int:
    last = connection.scalar(sa.select(sa.func.max(_nodes.c.position)).where(_nodes.c.level == 0))
    return 0 if last is None else int(last) + 1


def _head(connection: sa.Connection, size: int | None) -> TreeHead:
    present = _size(connection)
    chosen = present if size is None else size
    if not 0 <= chosen <= present:
        raise InvalidInput(f"the log has {present} entries, and no head over {chosen}")
    return TreeHead(chosen, root_hash(_Stored(connection), chosen))


def _claims(connection: sa.Connection) -> tuple[list[_Claim], list[str]]:
    """Which entry each receipt should be; and, as faults, which receipts claim none."""
    c = tables.forget_requests.c
    query = (
        sa.select(c.request_id, c.receipt, _logged.c.position, _logged.c.salt)
        .join_from(tables.forget_requests, _logged, c.request_id == _logged.c.request_id, isouter=True)
        .where(c.receipt.is_not(None))
        .execution_options(yield_per=1_000)
    )
    claims, faults = [], []
    for row in connection.execute(query):
        if row.position is None:
            faults.append(f"the receipt of request {row.request_id} is not in the log")
        else:
            claims.append(_Claim(row.request_id, row.position, _leaf(bytes.fromhex(row.salt), row.receipt)))
    return claims, faults


def _faults_of_tree(stored: Mapping[tuple[int, int], bytes], leaves: int) -> Iterator[str]:
    missing = [position for position in range(leaves) if (0, position) not in stored]
    if missing:
        yield f"entry {missing[0]} is missing"
        return
    made: dict[tuple[int, int], bytes] = {}
    for index in range(leaves):
        made[0, index] = stored[0, index]
        for level, position, hashed in filled_by(lambda *place: made[place], index):
            made[level, position] = hashed
            if stored.get((level, position)) != hashed:
                first, last = position << level, ((position + 1) << level) - 1
                yield f"the hash over entries {first} to {last} is not that of the entries"
    for level, position in sorted(stored.keys() - made.keys()):
        yield f"the hash at level {level}, position {position} is of no entries"


def _faults_of_claims(stored: Mapping[tuple[int, int], bytes], claims: list[_Claim]) -> Iterator[str]:
    claimed: set[int] = set()
    for claim in claims:
        if stored.get((0, claim.position)) != claim.leaf:
            yield f"entry {claim.position} is not of the receipt of request {claim.request_id}"
        elif claim.position in claimed:
            yield f"entry {claim.position} is claimed twice"
        claimed.add(claim.position)
    unclaimed = [position for level, position in stored if level == 0 and position not in claimed]
    if unclaimed:
        yield f"entry {min(unclaimed)} is of no receipt that is held"

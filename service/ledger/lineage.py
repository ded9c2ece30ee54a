"""Who has been seen by what: which adapters and validation rows must be masked when a user asks to be forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.hashes import KeyedHashes
from service.ledger.masks import add_masks, masked_by
from service.ledger.requests import OWED_STATES, add_late, find_requests
from service.ledger.restraints import restricted_since
from service.ledger.state import raise_revision
from service.ledger.statements import chunks, insert_new
from service.records import ForgetRequest


def lineage_rows(
    adapters: Mapping[str, Iterable[str]],
    rows: Mapping[str, str],
    shards: Mapping[str, str],
    memories: Mapping[str, Mapping[str, int]],
) -> list[dict[str, Any]]:
    """Rows of `lineage`.

    Of adapters (digest -> a user id for each sample), memories (digest -> user id -> interactions) and validation rows
    (key -> user id).
    """
    of_adapters = [
        {"kind": "adapter", "key": digest, "user_id": user, "shard": shards.get(digest), "samples": samples}
        for digest, users in adapters.items()
        for user, samples in Counter(users).items()
    ]
    of_memories = [
        {"kind": "memory", "key": digest, "user_id": user, "shard": shards.get(digest), "samples": interactions}
        for digest, users in memories.items()
        for user, interactions in users.items()
    ]
    alone = {"kind": "row", "shard": None, "samples": 1}
    return of_adapters + of_memories + [{**alone, "key": key, "user_id": user} for key, user in rows.items()]


def record(connection: sa.Connection, seen: list[dict[str, Any]], view_fence: int, hashes: KeyedHashes) -> None:
    """Note the lineage. What has seen somebody who was forgotten or restricted after `view_fence` is masked at once."""
    late = late_requests(connection, view_fence, {row["user_id"] for row in seen}, hashes)
    gone = {user for user, requests in late.items() if any(request.scope == "user" for request in requests)}
    insert_new(connection, tables.lineage, [row for row in seen if row["user_id"] not in gone])
    for user, requests in late.items():
        own = [row for row in seen if row["user_id"] == user]
        for request in requests:
            # One that found nothing to erase is completed from the start: nothing would lift its masks.
            if request.state in OWED_STATES or request.erased_interactions:
                _mask_late(connection, request, own)
    for user, restraint_id in restricted_since(
        connection, view_fence, {row["user_id"] for row in seen}, hashes
    ).items():
        if add_masks(connection, [(row["kind"], row["key"], restraint_id) for row in seen if row["user_id"] == user]):
            raise_revision(connection)


def _mask_late(connection: sa.Connection, request: ForgetRequest, own: Sequence[Mapping[str, Any]]) -> None:
    known = frozenset().union(*masked_by(connection, request.request_id))
    new = [row for row in own if row["key"] not in known]
    if add_masks(connection, [(row["kind"], row["key"], request.request_id) for row in new]):
        raise_revision(connection)
    if request.state in OWED_STATES:  # or its receipt is signed
        add_late(connection, request, new)


def late_requests(
    connection: sa.Connection, view_fence: int, users: Collection[str], hashes: KeyedHashes
) -> dict[str, list[ForgetRequest]]:
    """User -> their requests after `view_fence`, of these users."""
    late = find_requests(connection, tables.forget_requests.c.fence > view_fence)
    if not late:  # as a rule; then nobody need be hashed
        return {}
    user_of = {subject: user for user in users for subject in hashes.subjects(user)}
    by_user: dict[str, list[ForgetRequest]] = {}
    for request in late:
        if request.subject in user_of:
            by_user.setdefault(user_of[request.subject], []).append(request)
    return by_user


def count_samples(connection: sa.Connection) -> dict[tuple[str, str], int]:
    """(kind, key) -> samples of all people of whom it is known that this artifact has seen them."""
    c = tables.lineage.c
    counted = connection.execute(sa.select(c.kind, c.key, sa.func.sum(c.samples)).group_by(c.kind, c.key))
    return {(kind, key): int(samples) for kind, key, samples in counted}


def unmasked(connection: sa.Connection) -> tuple[frozenset[str], frozenset[str]]:
    """The adapters and the memories of which it is known whom they have seen, and that nothing masks."""
    c, m = tables.lineage.c, tables.masks.c
    masked = sa.select(m.key).where(~m.lifted)
    adapters, memories = (
        frozenset(connection.scalars(sa.select(c.key).where(c.kind == kind, c.key.not_in(masked)).distinct()))
        for kind in ("adapter", "memory")
    )
    return adapters, memories


def all_known(
    connection: sa.Connection, adapters: Collection[str], rows: Collection[str], memories: Collection[str]
) -> bool:
    """Whether it is known of each of these artifacts who was seen by it, or that it may not be used."""
    masks = tables.masks
    return all(
        _known(connection, tables.lineage, kind) | _known(connection, masks, kind, ~masks.c.lifted) >= set(keys)
        for kind, keys in (("adapter", adapters), ("row", rows), ("memory", memories))
    )


def _known(connection: sa.Connection, table: sa.Table, kind: str, *only: sa.ColumnElement[bool]) -> set[str]:
    return set(connection.scalars(sa.select(table.c.key).where(table.c.kind == kind, *only).distinct()))


def drop_except(
    connection: sa.Connection, adapters: Collection[str], rows: Collection[str], memories: Collection[str]
) -> None:
    """Drop the lineage of artifacts that exist no more, and masks that outlived both their request and artifact."""
    kept = {"adapter": frozenset(adapters), "row": frozenset(rows), "memory": frozenset(memories)}
    request = tables.forget_requests.c
    completed = sa.select(request.request_id).where(request.state == "completed")
    _delete_gone(connection, tables.lineage, kept)
    if _delete_gone(connection, tables.masks, kept, tables.masks.c.request_id.in_(completed)):
        raise_revision(connection)


def _delete_gone(
    connection: sa.Connection, table: sa.Table, kept: Mapping[str, frozenset[str]], *only: sa.ColumnElement[bool]
) -> int:
    deleted = 0
    for kind, alive in kept.items():
        of_kind = (table.c.kind == kind, *only)
        held = set(connection.scalars(sa.select(table.c.key).where(*of_kind).distinct()))
        for chunk in chunks(held - alive):
            deleted += connection.execute(sa.delete(table).where(*of_kind, table.c.key.in_(chunk))).rowcount
    return deleted

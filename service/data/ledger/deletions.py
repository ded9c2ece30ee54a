"""Accepting a deletion: rows erased, masks and tombstones set, and the fence raised, all on the caller's transaction."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import sqlalchemy as sa

from service.data.ledger import tables
from service.data.ledger.hashes import KeyedHashes
from service.data.ledger.masks import add_masks
from service.data.ledger.placements import mark_changed
from service.data.ledger.requests import OWED, add_request, find_requests, one_request
from service.data.ledger.state import raise_revision, read_state
from service.data.ledger.statements import Row, chunks, insert_new, storable
from service.data.ledger.tombstones import bury
from service.errors import IdempotencyConflict, InvalidInput
from service.records import ForgetRequest, Tombstone

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Wish:
    """Who wants what forgotten. `item_ids` is None for the whole user."""

    user_id: str
    subject: str
    item_ids: frozenset[str] | None
    graves: tuple[str, ...]  # what tombstones will stand for
    content_hash: str
    key_hash: str | None  # of the idempotency key, if there is one
    accepted_at: float
    subjects: frozenset[str]  # of the user, under every secret
    known_as: Mapping[str, str]  # hash of the idempotency key -> of the content, under every secret

    @classmethod
    def of(
        cls, user_id: str, item_ids: Sequence[str] | None, key: str | None, hashes: KeyedHashes, accepted_at: float
    ) -> Self:
        """Raises InvalidInput for an empty list of items, and for ids that cannot be stored."""
        if item_ids is not None and not item_ids:
            raise InvalidInput("item_ids is empty; leave it out to forget the whole user")
        subject = hashes.subject(user_id)
        chosen = None if item_ids is None else frozenset(map(storable, item_ids))
        content_hash = _content(hashes, user_id, chosen)
        return cls(
            user_id=user_id,
            subject=subject,
            item_ids=chosen,
            graves=(tables.WHOLE_USER,) if chosen is None else tuple(hashes.grave(subject, i) for i in sorted(chosen)),
            content_hash=content_hash,
            key_hash=None if key is None else hashes.of("idempotency", key),
            accepted_at=accepted_at,
            subjects=hashes.subjects(user_id),
            known_as={}
            if key is None
            else {h.of("idempotency", key): _content(h, user_id, chosen) for h in hashes.every()},
        )

    @property
    def scope(self) -> str:
        return _scope(self.item_ids)


def _content(hashes: KeyedHashes, user_id: str, chosen: frozenset[str] | None) -> str:
    return hashes.of("content", hashes.subject(user_id), _scope(chosen), *sorted(chosen or ()))


def _scope(item_ids: frozenset[str] | None) -> str:
    return "user" if item_ids is None else "interactions"


def accept(connection: sa.Connection, wish: Wish, clock: Clock) -> ForgetRequest:
    """The request that answers the wish: under a known idempotency key the earlier one. Raises IdempotencyConflict."""
    if wish.key_hash is None:
        return _accept(connection, wish, clock)
    of_key = sa.select(tables.idempotency).where(tables.idempotency.c.key_hash.in_(wish.known_as))
    known = connection.execute(of_key).first()
    if known is None:
        request = _accept(connection, wish, clock)
        row = {"key_hash": wish.key_hash, "content_hash": wish.content_hash, "request_id": request.request_id}
        insert_new(connection, tables.idempotency, [row])
        return request
    if known.content_hash != wish.known_as[known.key_hash]:
        raise IdempotencyConflict("this idempotency key was used before, for a different request; take a new key")
    return one_request(connection, known.request_id)


def _accept(connection: sa.Connection, wish: Wish, clock: Clock) -> ForgetRequest:
    mine = sa.select(tables.exposures).where(tables.exposures.c.user_id == wish.user_id)
    exposures = connection.execute(mine).all()
    erased = _erase_interactions(connection, wish)
    _erase_derived(connection, wish, erased)
    owed = find_requests(connection, tables.forget_requests.c.subject.in_(wish.subjects), OWED)
    if wish.item_ids is None and not erased and not exposures:
        for earlier in owed:
            if earlier.scope == wish.scope:
                return earlier
    # While an earlier deletion is owed, a build may hold what the ledger no longer shows.
    held = bool(erased or owed or (exposures and wish.item_ids is None))
    request = _new_request(connection, wish, erased, exposures if held else (), held, clock)
    bury(connection, [Tombstone(wish.subject, grave, request.request_id, request.fence) for grave in wish.graves])
    return request


def _new_request(
    connection: sa.Connection, wish: Wish, erased: int, exposures: Sequence[Row], held: bool, clock: Clock
) -> ForgetRequest:
    state = read_state(connection)
    adapters = sorted((row.key, row.shard, row.samples) for row in exposures if row.kind == "adapter")
    # A clock that was set back must not make a receipt state that something ended before it began.
    masked_at = max(clock(), wish.accepted_at)
    request = ForgetRequest(
        request_id=uuid.uuid4().hex,
        subject=wish.subject,
        scope=wish.scope,
        state="accepted" if held else "completed",
        fence=int(state.fence) + held,
        affected_shards=tuple(digest for digest, _, _ in adapters),
        shard_names=tuple(name for _, name, _ in adapters),
        generation_before=state.generation,
        erased_interactions=erased,
        masked_rows=sum(row.kind == "row" for row in exposures),
        masked_samples=sum(samples for _, _, samples in adapters),
        accepted_at=wish.accepted_at,
        masked_at=masked_at,
        completed_at=None if held else masked_at,
    )
    add_request(connection, request)
    add_masks(connection, [(seen.kind, seen.key, request.request_id) for seen in exposures])
    sys.audit("lethe.forget.masked")
    if held:
        raise_revision(connection, fence=request.fence)
    return request


def _erase_interactions(connection: sa.Connection, wish: Wish) -> int:
    c = tables.interactions.c
    mine = sa.delete(tables.interactions).where(c.user_id == wish.user_id)
    if wish.item_ids is None:
        return connection.execute(mine).rowcount
    return sum(connection.execute(mine.where(c.item_id.in_(chunk))).rowcount for chunk in chunks(wish.item_ids))


def _erase_derived(connection: sa.Connection, wish: Wish, erased: int) -> None:
    if wish.item_ids is not None:
        # A user who stays keeps their exposures: what has seen them still has, for their next request.
        if erased:
            mark_changed(connection, [wish.user_id])
        return
    for table in (tables.placements, tables.changes, tables.memberships, tables.exposures):
        connection.execute(sa.delete(table).where(table.c.user_id == wish.user_id))

"""Accepting a deletion: rows erased, masks and tombstones set, and the fence raised, all on the caller's transaction."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import sqlalchemy as sa

from service.errors import IdempotencyConflict, InvalidInput
from service.ledger import aside, audit, impressions, merging, rectifying, rows, tables
from service.ledger.catalog import created_of, drop_unnamed, id_in
from service.ledger.findings import ForgetFindings, look_up
from service.ledger.hashes import KeyedHashes
from service.ledger.masks import add_masks
from service.ledger.placements import mark_changed
from service.ledger.requests import (
    OWED,
    add_request,
    find_requests,
    one_request,
)
from service.ledger.restraints import restraint_of
from service.ledger.state import raise_revision, read_state
from service.ledger.statements import (
    Row,
    insert_new,
    is_storable,
    keyed,
)
from service.ledger.tombstones import add_tombstones, read_tombstones
from service.records import (
    ById,
    ByTitle,
    Correction,
    ForgetRequest,
    Interaction,
    ItemName,
    Key,
    Outcome,
    Requester,
    RequestState,
    Scope,
    Tombstone,
)

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class AcceptedForget:
    """A deletion, and what its caller is to keep beside the ledger before it is confirmed."""

    request: ForgetRequest
    tombstones: tuple[Tombstone, ...]


@dataclass(frozen=True, slots=True)
class _Erased:
    rows: int
    impressions: int  # also those that an item is taken out of

    def __bool__(self) -> bool:
        return bool(self.rows or self.impressions)


@dataclass(frozen=True, slots=True)
class ForgetCommand:
    """Who wants what forgotten. `names` is None for the whole user."""

    user_id: Key
    subject: str
    names: frozenset[ItemName] | None
    remember: bool  # for ever, even what is not held
    content_hash: str
    key_hash: str | None  # of the idempotency key, if there is one
    accepted_at: float
    subjects: frozenset[str]  # of the user, under every secret
    known_as: Mapping[str, str]  # hash of the idempotency key -> of the content, under every secret
    by: Requester
    correction: Correction | None  # what stands in place of the one item that `names` holds; None: nothing
    into: Key | None  # the user whose everything is from now on; None: nobody's
    again: bool  # it was forgotten before, and an old ledger has brought it back
    request_id: str  # of the request that it makes

    @classmethod
    def of(
        cls,
        user_id: str,
        names: Sequence[ItemName] | None,
        key: str | None,
        remember: bool,
        hashes: KeyedHashes,
        accepted_at: float,
        by: Requester,
        correction: Correction | None = None,
        again: bool = False,
        into: str | None = None,
    ) -> Self:
        """Raises InvalidInput for an empty list of items, and for what is no id or no text."""
        if names is not None and not names:
            raise InvalidInput("item_ids is empty; leave it out to forget the whole user")
        user = keyed(user_id)
        stated = {_stated(name) for name in names or ()}
        instead = [] if correction is None else [json.dumps([correction.liked, correction.rating])]
        target = None if into is None else keyed(into, "into")
        instead += [] if target is None else ["into", target]
        content = (_scope(names), *sorted(stated), *(["remember"] if remember else []), *instead)
        # Of each API key its own: nobody learns which ones others have used.
        named = None if key is None else (*(() if by.key_id is None else (by.key_id,)), key)
        known_as = (
            {each.of("idempotency", *named): _content(each, user, content) for each in hashes.every()} if named else {}
        )
        return cls(
            user_id=user,
            subject=hashes.subject(user),
            names=None if names is None else frozenset(names),
            remember=remember,
            content_hash=_content(hashes, user, content),
            key_hash=None if named is None else hashes.of("idempotency", *named),
            accepted_at=accepted_at,
            subjects=frozenset(hashes.subjects(user)),
            known_as=known_as,
            by=by,
            correction=correction,
            into=target,
            again=again,
            request_id=uuid.uuid4().hex,
        )

    @property
    def scope(self) -> Scope:
        return _scope(self.names)

    @property
    def action(self) -> str:
        """What the audit trail calls it."""
        if self.into is not None:
            return audit.MERGE
        return audit.DELETION if self.correction is None else audit.RECTIFICATION


def _content(hashes: KeyedHashes, user_id: Key, content: Sequence[str]) -> str:
    return hashes.of("content", hashes.subject(user_id), *content)


def _scope(names: object) -> Scope:
    return "user" if names is None else "interactions"


def _stated(name: ItemName) -> str:
    """One text for all spellings of one name. Raises InvalidInput for what names nothing."""
    match name:
        case ById():
            return json.dumps(["item_id", keyed(name.item_id, "an item_id")])
        case ByTitle() if name.title and is_storable(name.title):
            return json.dumps(["title", name.title])
        case str() if name and is_storable(name):
            return id_in(name) or name
        case _:
            raise InvalidInput("one of item_ids is empty, or holds characters that are not text")


def accept(
    connection: sa.Connection, command: ForgetCommand, hashes: KeyedHashes, remember_seconds: float, clock: Clock
) -> AcceptedForget:
    """The request that answers the command: under a known idempotency key the earlier one.

    What is not held is remembered for `remember_seconds`. Raises IdempotencyConflict.
    """
    if command.key_hash is None:
        return _accept(connection, command, hashes, remember_seconds, clock)
    of_key = sa.select(tables.idempotency).where(tables.idempotency.c.key_hash.in_(command.known_as))
    known = connection.execute(of_key).first()
    if known is None:
        accepted = _accept(connection, command, hashes, remember_seconds, clock)
        request_id = accepted.request.request_id
        row = {"key_hash": command.key_hash, "content_hash": command.content_hash, "request_id": request_id}
        insert_new(connection, tables.idempotency, [row])
        return accepted
    if known.content_hash != command.known_as[known.key_hash]:
        raise IdempotencyConflict("this idempotency key was used before, for a different request; take a new key")
    return _known(connection, one_request(connection, known.request_id))


def _accept(
    connection: sa.Connection, command: ForgetCommand, hashes: KeyedHashes, remember_seconds: float, clock: Clock
) -> AcceptedForget:
    mine = sa.select(tables.lineage).where(tables.lineage.c.user_id == command.user_id)
    lineage = connection.execute(mine).all()
    findings = look_up(connection, command.user_id, command.names, seen=bool(lineage), hashes=hashes)
    created = created_of(connection, command.user_id)
    row = _corrected(connection, command)
    if command.into is not None:
        merging.require_mergeable(connection, command.user_id, command.into, findings, hashes, command.accepted_at)
        findings = replace(findings, outcome=Outcome.MERGED)
    hold = restraint_of(connection, command.subjects, "hold")
    erased = _counted(connection, command, findings)
    _take_out(connection, command, findings, hold is not None, hashes)
    if row is not None:
        restricted = restraint_of(connection, command.subjects, "restriction")
        rectifying.put(connection, row, restricted is not None)
    drop_unnamed(connection, created)  # nobody but this person may have named them
    _erase_derived(connection, command, erased.rows)
    pending = find_requests(connection, tables.forget_requests.c.subject.in_(command.subjects), OWED)
    if command.names is None and not erased and not lineage and command.by.may_know:
        for earlier in pending:
            if earlier.scope == command.scope:
                _note(connection, command, earlier, hashes)
                return _known(connection, earlier)
    # While an earlier deletion is owed, a build may hold what the ledger no longer shows.
    # Impressions are in no artifact: of who stays nothing need be masked for them.
    masked = lineage if erased.rows or pending or command.names is None else ()
    owing = bool(erased or pending or masked)
    held_back = hold is not None and (bool(erased) or any(earlier.state == "held" for earlier in pending))
    state: RequestState = "held" if held_back else "accepted" if owing else "completed"
    request = _new_request(connection, command, findings, erased, masked, state, clock)
    stones = tuple(findings.tombstones(request, command.remember, remember_seconds))
    if row is not None:
        stones = tuple(rectifying.tombstone_before(row, one) for one in stones)
    elif command.again:
        stones = tuple(one for one in stones if not rectifying.stands_before(findings.standing.get(one.scope_hash)))
    add_tombstones(connection, stones)
    _note(connection, command, request, hashes)
    return AcceptedForget(request, stones)


def _known(connection: sa.Connection, request: ForgetRequest) -> AcceptedForget:
    """A request that was accepted before: whoever asked then may have died before the file had its tombstones."""
    return AcceptedForget(
        request, tuple(read_tombstones(connection, tables.tombstones.c.request_id == request.request_id))
    )


def _note(connection: sa.Connection, command: ForgetCommand, request: ForgetRequest, hashes: KeyedHashes) -> None:
    event = audit.AuditEvent(
        at=command.accepted_at,
        actor=command.by.actor,
        action=command.action,
        outcome="accepted",
        request_id=request.request_id,
        subject=command.subject,
        address=command.by.address,
    )
    audit.append(connection, hashes, event)
    if command.names is None:
        # Hashes under a retired secret are known here alone; those under the present one go when the deletion is at work.
        audit.remove_person(connection, command.subjects - {command.subject}, request.request_id)


def _new_request(
    connection: sa.Connection,
    command: ForgetCommand,
    findings: ForgetFindings,
    erased: _Erased,
    lineage: Sequence[Row],
    state: RequestState,
    clock: Clock,
) -> ForgetRequest:
    now, owing = read_state(connection), state != "completed"
    adapters = sorted((row.key, row.shard, row.samples) for row in lineage if row.kind == "adapter")
    # A clock that was set back must not make a receipt state that something ended before it began.
    masked_at = max(clock(), command.accepted_at)
    request = ForgetRequest(
        request_id=command.request_id,
        subject=command.subject,
        scope=command.scope,
        state=state,
        fence=int(now.fence) + owing,
        affected_shards=tuple(digest for digest, _, _ in adapters),
        shard_names=tuple(name for _, name, _ in adapters),
        generation_before=now.generation,
        erased_interactions=erased.rows,
        erased_impressions=erased.impressions,
        masked_rows=sum(row.kind == "row" for row in lineage),
        masked_samples=sum(samples for _, _, samples in adapters),
        accepted_at=command.accepted_at,
        masked_at=masked_at,
        completed_at=None if owing else masked_at,
        outcome=findings.outcome,
        items=findings.items,
        requested_by=command.by.key_id,
    )
    add_request(connection, request)
    add_masks(connection, [(seen.kind, seen.key, request.request_id) for seen in lineage])
    sys.audit("lethe.forget.masked")
    if state == "held":
        raise_revision(connection, fence=request.fence, restrained=request.fence)
    elif owing:
        raise_revision(connection, fence=request.fence)
    return request


def _corrected(connection: sa.Connection, command: ForgetCommand) -> Interaction | None:
    if command.correction is None:
        return None
    return rectifying.corrected(connection, command.user_id, command.correction, command.accepted_at)


def _counted(connection: sa.Connection, command: ForgetCommand, findings: ForgetFindings) -> _Erased:
    """How much of what is asked for is held now. What somebody was shown stays true where their opinion is corrected."""
    held = aside.items_held(connection, command.user_id, findings.held)
    shown = 0 if command.correction else impressions.count_of(connection, command.user_id, findings.held)
    return _Erased(len(held), shown)


def _take_out(
    connection: sa.Connection, command: ForgetCommand, findings: ForgetFindings, held_back: bool, hashes: KeyedHashes
) -> None:
    """Erase what is asked for, or set it aside under this request's id until the hold is released, or let it be another's."""
    user_id, among = command.user_id, findings.held
    if command.into is not None:
        merging.move(connection, user_id, command.into, hashes, command.accepted_at)
    if held_back:
        aside.set_aside(connection, user_id, among, command.request_id)
    aside.erase(connection, user_id, among)
    rows.erase(connection, user_id, among, keep_events=command.correction is not None)
    if command.correction is not None:
        impressions.correct(connection, user_id, keyed(command.correction.item_id), command.correction.liked)
    elif held_back:
        impressions.set_aside(connection, user_id, among, command.request_id)
    else:
        impressions.erase(connection, user_id, among)


def _erase_derived(connection: sa.Connection, command: ForgetCommand, erased: int) -> None:
    if command.names is not None:
        # A user who stays keeps their lineage: what has seen them still has, for their next request.
        if erased:
            mark_changed(connection, [command.user_id])
        return
    for table in (tables.placements, tables.changes, tables.memberships, tables.lineage):
        connection.execute(sa.delete(table).where(table.c.user_id == command.user_id))

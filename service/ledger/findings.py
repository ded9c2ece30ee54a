"""What a deletion asks for, compared with what is held: found, erased by an earlier one, or never there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from service.ledger import tables
from service.ledger.aside import items_held
from service.ledger.catalog import all_named, id_in
from service.ledger.hashes import KeyedHashes
from service.ledger.impressions import items_shown
from service.ledger.requests import find_requests
from service.ledger.tombstones import read_tombstones
from service.records import ForgetRequest, ItemName, Key, NamedItems, Outcome, Tombstone


@dataclass(frozen=True, slots=True)
class ForgetFindings:
    """What was found. `scope_hashes` tells of each scope that is asked for whether anything of it was held, now or before."""

    held: frozenset[str] | None  # ids of the items that are named and held; None: whatever is held of the user
    outcome: Outcome
    items: NamedItems | None
    scope_hashes: Mapping[str, bool]
    standing: Mapping[str, Tombstone]  # of the user, by scope hash

    def tombstones(self, request: ForgetRequest, remember: bool, remember_seconds: float) -> Iterator[Tombstone]:
        """Those to be set: for ever over what was held (or with `remember`), else until rows under way have come in."""
        for scope_hash, filled in self.scope_hashes.items():
            if filled:
                yield Tombstone(request.subject, scope_hash, request.request_id, request.fence)
            elif remember or remember_seconds:
                ends = None if remember else request.accepted_at + remember_seconds
                stone = Tombstone(
                    request.subject, scope_hash, request.request_id, request.fence, ends, request.accepted_at
                )
                if stone.adds_to(self.standing.get(scope_hash)):
                    yield stone


def look_up(
    connection: sa.Connection, user_id: Key, names: Collection[ItemName] | None, seen: bool, hashes: KeyedHashes
) -> ForgetFindings:
    """Compare with what is held now, before anything is erased. `seen`: some artifact has seen the user."""
    known_as = hashes.subjects(user_id)
    stones = read_tombstones(connection, tables.tombstones.c.subject.in_(known_as))
    standing = {stone.scope_hash: stone for stone in stones if stone.subject == known_as[0]}
    earlier = find_requests(connection, tables.forget_requests.c.subject.in_(known_as))
    filled = _filled(stones, earlier)
    if names is None:
        held_now = seen or bool(items_held(connection, user_id)) or bool(items_shown(connection, user_id))
        outcome = _outcome(held_now, bool(filled) or any(one.held for one in earlier))
        if outcome is Outcome.ALREADY_ERASED and _is_merged(stones, earlier):
            outcome = Outcome.MERGED
        return ForgetFindings(None, outcome, None, {tables.WHOLE_USER: outcome is not Outcome.NOTHING_HELD}, standing)
    return _look_up_items(connection, user_id, names, standing, filled, hashes)


def _is_merged(stones: Collection[Tombstone], earlier: Collection[ForgetRequest]) -> bool:
    """Whether what was held is another user's, which whoever asks should be told: it is not gone."""
    whole = {stone.request_id for stone in stones if stone.scope_hash == tables.WHOLE_USER}
    return any(one.found is Outcome.MERGED and one.request_id in whole for one in earlier)


def _look_up_items(
    connection: sa.Connection,
    user_id: Key,
    names: Collection[ItemName],
    standing: Mapping[str, Tombstone],
    filled: frozenset[str],
    hashes: KeyedHashes,
) -> ForgetFindings:
    subject = hashes.subject(user_id)
    meant = {name: [item.item_id for item in items] for name, items in all_named(connection, names).items()}
    # Of an id that no item has, rows may still be under way, or the item may have left with its last row.
    ids = {name: meant.get(name) or [key for key in [id_in(name)] if key is not None] for name in names}
    scope_hashes = {item_id: hashes.scope_hash(subject, item_id) for own in ids.values() for item_id in own}
    held = items_held(connection, user_id, scope_hashes) | items_shown(connection, user_id, scope_hashes)
    gone = {item_id for item_id in scope_hashes if not filled.isdisjoint(hashes.scope_hashes(user_id, item_id))}
    if tables.WHOLE_USER in filled:
        gone |= {item_id for own in meant.values() for item_id in own}
    erased = {name for name, own in ids.items() if held.intersection(own)}
    already = {name for name, own in ids.items() if gone.intersection(own)} - erased
    not_held = meant.keys() - erased - already
    unknown = len(ids) - len(erased) - len(already) - len(not_held)
    items = NamedItems(len(ids), len(erased), len(already), len(not_held), unknown)
    deep = {scope_hash: item_id in held or item_id in gone for item_id, scope_hash in scope_hashes.items()}
    return ForgetFindings(frozenset(held), _outcome(bool(erased), bool(already)), items, deep, standing)


def _outcome(erased: bool, already: bool) -> Outcome:
    if erased:
        return Outcome.ERASED
    return Outcome.ALREADY_ERASED if already else Outcome.NOTHING_HELD


def _filled(stones: Collection[Tombstone], earlier: Collection[ForgetRequest]) -> frozenset[str]:
    """The scopes of which something was held. Earlier versions set the same tombstone where nothing had been held."""
    empty = {request.request_id for request in earlier if request.found is Outcome.NOTHING_HELD}
    return frozenset(
        stone.scope_hash for stone in stones if stone.accepted_at is None and stone.request_id not in empty
    )

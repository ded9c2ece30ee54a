"""Taking in a catalogue and interactions, past the tombstones of those who asked to be forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import sqlalchemy as sa

from service.data.ledger import tables, tombstones
from service.data.ledger.catalogue import items_by_id, row_of
from service.data.ledger.hashes import KeyedHashes
from service.data.ledger.placements import mark_changed, mark_readers_changed
from service.data.ledger.state import raise_revision, read_state, set_state
from service.data.ledger.statements import chunks, count, is_storable, upsert
from service.errors import ImportRefused
from service.records import Interaction, Item, KeyRefused, key_of

_TIMESTAMP_LIMIT = 2**63


@dataclass(frozen=True, slots=True)
class ImportCounts:
    """What an import found (distinct, in the given data) and what it did."""

    items: int
    interactions: int
    users: int
    new_items: int
    new_interactions: int
    changed_interactions: int
    tombstoned: int  # interactions skipped, because their user had asked to be forgotten


@dataclass(frozen=True, slots=True)
class Given:
    """Data that a database can store, one row per key: of several with one key, the last."""

    items: dict[str, Item]
    interactions: dict[tuple[str, str], Interaction]
    subjects: dict[str, str]  # user id -> keyed hash

    @classmethod
    def of(cls, items: Iterable[Item], interactions: Iterable[Interaction], hashes: KeyedHashes) -> Self:
        items, interactions = _keyed(list(items), list(interactions))
        by_id = {item.item_id: item for item in items}
        by_pair = {(row.user_id, row.item_id): row for row in interactions}
        _check_storable(by_id.values(), by_pair.values())
        return cls(
            by_id, by_pair, {user_id: hashes.subject(user_id) for user_id in {user_id for user_id, _ in by_pair}}
        )


def _keyed(items: list[Item], interactions: list[Interaction]) -> tuple[list[Item], list[Interaction]]:
    """What importers made has keys already, so that as a rule nothing is made anew."""
    ids = {item.item_id for item in items} | {row.item_id for row in interactions}
    ids |= {row.user_id for row in interactions}
    try:
        keys = {text: key for text in ids if (key := key_of(text)) != text}
    except KeyRefused as error:
        raise ImportRefused(f"an id {error}") from None
    if not keys:
        return items, interactions
    return (
        [replace(item, item_id=keys.get(item.item_id, item.item_id)) for item in items],
        [
            replace(row, user_id=keys.get(row.user_id, row.user_id), item_id=keys.get(row.item_id, row.item_id))
            for row in interactions
        ],
    )


def _check_storable(items: Iterable[Item], interactions: Iterable[Interaction]) -> None:
    texts = {text for item in items for text in (item.title, item.author or "", *item.genres)}
    for row in interactions:
        if not -_TIMESTAMP_LIMIT <= row.timestamp < _TIMESTAMP_LIMIT:
            raise ImportRefused("a timestamp is out of range; expected seconds since the epoch")
    if not all(map(is_storable, texts)):
        raise ImportRefused(
            "a title, author or genre holds a character that cannot be stored (NUL or a lone surrogate)"
        )


def take(
    connection: sa.Connection,
    given: Given,
    noun: str | None,
    allow_returning: bool,
    hashes: KeyedHashes,
    now: float,
) -> ImportCounts:
    """Take in what is new or has changed. The revision is raised only when something is."""
    named = _take_noun(connection, noun)
    tombstones.remove_expired(connection, now)
    buried = tombstones.over(connection, given.interactions.values(), given.subjects, hashes, now)
    returning = buried if allow_returning else {}
    banned = buried.keys() - returning.keys()
    tombstones.remove(connection, {stone for stones in returning.values() for stone in stones})
    wanted = [row for pair, row in given.interactions.items() if pair not in banned]
    new_items, changed_items = _take_items(connection, given.items)
    _check_items_known(connection, given.items, wanted)
    new, changed = _take_interactions(connection, wanted)
    if named or returning or new_items or changed_items or new or changed:
        raise_revision(connection)
    found = len(given.items), len(given.interactions), len(given.subjects)
    return ImportCounts(*found, new_items, new, changed, len(banned))


def _take_noun(connection: sa.Connection, noun: str | None) -> bool:
    known = read_state(connection).noun
    if noun is None or noun == known:
        return False
    if known is not None and count(connection, tables.items):
        raise ImportRefused(f"this ledger's catalogue is of the noun {known!r}, not {noun!r}; use a ledger of its own")
    set_state(connection, noun=noun)
    return True


def _take_items(connection: sa.Connection, given: Mapping[str, Item]) -> tuple[int, int]:
    """How many were new, and how many had changed."""
    known = items_by_id(connection, given)
    differing = [item for item in given.values() if known.get(item.item_id) != item]
    upsert(connection, tables.items, [row_of(item) for item in differing])
    mark_readers_changed(connection, known.keys() & {item.item_id for item in differing})
    new = sum(item.item_id not in known for item in differing)
    return new, len(differing) - new


def _check_items_known(connection: sa.Connection, given: Mapping[str, Item], wanted: Iterable[Interaction]) -> None:
    missing = {row.item_id for row in wanted} - given.keys()
    unknown = missing - items_by_id(connection, missing).keys()
    if unknown:
        raise ImportRefused(
            f"{len(unknown)} item ids of the interactions are neither among the given items nor in the ledger; "
            "import their items first or along with them"
        )


def _take_interactions(connection: sa.Connection, wanted: Sequence[Interaction]) -> tuple[int, int]:
    """How many were new, and how many had changed."""
    known: dict[tuple[str, str], tuple[bool, int]] = {}
    for chunk in chunks({row.user_id for row in wanted}):
        theirs = sa.select(tables.interactions).where(tables.interactions.c.user_id.in_(chunk))
        for row in connection.execute(theirs):
            known[row.user_id, row.item_id] = (row.liked, row.timestamp)
    differing = [row for row in wanted if known.get((row.user_id, row.item_id)) != (row.liked, row.timestamp)]
    upsert(connection, tables.interactions, list(map(_row_of, differing)))
    mark_changed(connection, {row.user_id for row in differing})
    new = sum((row.user_id, row.item_id) not in known for row in differing)
    return new, len(differing) - new


def _row_of(given: Interaction) -> dict[str, Any]:
    # By hand: `asdict` copies every value, and there may be millions.
    return {
        "user_id": given.user_id,
        "item_id": given.item_id,
        "liked": given.liked,
        "timestamp": given.timestamp,
    }

"""Impressions: what somebody was shown, and what came of it. No build, no count and no answer reads them.

They go with their person: a deletion erases them, a restriction or a hold sets them aside, and one that is still on its way
when a deletion is accepted is not written any more. A deletion of single items takes these items out of the person's
impressions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from service.ledger import tables, tombstones
from service.ledger.aside import RESTRICTED
from service.ledger.catalog import known_ids
from service.ledger.database import Database
from service.ledger.hashes import KeyedHashes
from service.ledger.requests import find_requests
from service.ledger.restraints import read_restraints
from service.ledger.rows import TABLES
from service.ledger.statements import Row, chunks, insert_new, is_storable, keyed
from service.records import Citation, ForgetRequest, Impression, Interaction, RestraintKind

SMALLEST_GROUP = 20  # people: of fewer no figures are told
_AT_ONCE = 2_000  # impressions that are removed in one transaction
_i, _s = tables.impressions.c, tables.shown_items.c
_IN_USE = _s.request_id.is_(None)
_ERASABLE = sa.or_(_IN_USE, _s.request_id == RESTRICTED)  # but for what a hold keeps from a deletion
_SAME = sa.and_(_i.user_id == _s.user_id, _i.recommendation_id == _s.recommendation_id)


@dataclass(frozen=True, slots=True)
class ShownItem:
    """An item of an impression: whether an event was attributed to it, and whether one said that it is liked."""

    item_id: str
    attributed: bool
    liked: bool
    set_aside: RestraintKind | None = None


@dataclass(frozen=True, slots=True)
class HeldImpression:
    """What is held of one answer. `shown_at` is in seconds since the epoch."""

    recommendation_id: str
    generation: str
    shown_at: float
    items: tuple[ShownItem, ...]


@dataclass(frozen=True, slots=True)
class OnlineQuality:
    """How a generation did among those whom it was shown to. Of fewer than `SMALLEST_GROUP` people all figures are None."""

    generation: str
    people: int | None
    impressions: int | None
    hit_rate: float | None  # share of impressions of which an item was liked
    click_through: float | None  # share of shown items to which an event was attributed


class ImpressionBook:
    """The impressions of one ledger. Each method is one transaction, or few; each raises LedgerUnavailable."""

    def __init__(self, database: Database, hashes: KeyedHashes, clock: Callable[[], float]) -> None:
        self._database = database
        self._hashes = hashes
        self._clock = clock

    def record(self, given: Sequence[Impression]) -> int:
        """Hold what may be held; how many impressions. Those are left out of whom nothing is held (any more).

        Also those whose person has asked for a deletion since they were shown: it must not be overtaken.
        """
        with self._database.write_transaction() as connection:
            return _record(connection, given, self._hashes, self._clock())

    def attribute(self, citations: Sequence[Citation]) -> list[bool]:
        """Note what came of impressions; of each citation whether its person was shown this item in this answer."""
        with self._database.write_transaction() as connection:
            return _attribute(connection, citations)

    def quality(self) -> list[OnlineQuality]:
        """How each generation does among those who are not forgotten and not restricted, the latest shown first."""
        with self._database.read_transaction() as connection:
            return [_quality_of(row) for row in connection.execute(_figures())]

    def prune(self, days: float) -> int:
        """Remove what was shown longer ago; how many impressions that is.

        Not of people whose data is restricted, or under a legal hold: until that ends, nothing of theirs is erased unasked.
        """
        before, removed = self._clock() - 86_400 * days, 0
        while True:
            with self._database.write_transaction() as connection:
                some = _prune_some(connection, before, self._hashes)
            removed += some
            if some < _AT_ONCE:
                return removed


def items_shown(connection: sa.Connection, user_id: str, among: Iterable[str] | None = None) -> set[str]:
    """Ids of the items that impressions of this user hold, or of those `among` them, but for what a hold keeps."""
    return {
        one
        for some in _parts(among)
        for one in connection.scalars(sa.select(_s.item_id).where(_of(user_id, some), _ERASABLE).distinct())
    }


def count_of(connection: sa.Connection, user_id: str, among: Iterable[str] | None = None) -> int:
    """How many impressions of this user hold anything, or any of these items, but for what a hold keeps."""
    found: set[str] = set()
    for some in _parts(among):
        found.update(
            connection.scalars(sa.select(_s.recommendation_id).where(_of(user_id, some), _ERASABLE).distinct())
        )
    return len(found)


def erase(connection: sa.Connection, user_id: str, among: Iterable[str] | None) -> None:
    """Delete a user's impressions, or take these items out of them."""
    for some in _parts(among):
        connection.execute(sa.delete(tables.shown_items).where(_of(user_id, some), _ERASABLE))
    _drop_empty(connection, [user_id])


def set_aside(connection: sa.Connection, user_id: str, among: Iterable[str] | None, request_id: str) -> None:
    """Use a user's impressions, or these items of them, for nothing, under a deletion's id or `RESTRICTED`."""
    for some in _parts(among):
        mine = sa.update(tables.shown_items).where(_of(user_id, some), _ERASABLE)
        connection.execute(mine.values(request_id=request_id))


def put_back(connection: sa.Connection, user_id: str) -> None:
    """Use a restricted user's impressions again."""
    mine = sa.and_(_s.user_id == user_id, _s.request_id == RESTRICTED)
    connection.execute(sa.update(tables.shown_items).where(mine).values(request_id=None))


def erase_held(connection: sa.Connection, request_ids: Iterable[str]) -> None:
    """Delete what these deletions would have erased."""
    for some in chunks(request_ids):
        mine = _s.request_id.in_(some)
        users = list(connection.scalars(sa.select(_s.user_id).where(mine).distinct()))
        connection.execute(sa.delete(tables.shown_items).where(mine))
        _drop_empty(connection, users)


def correct(connection: sa.Connection, user_id: str, item_id: str, liked: bool) -> None:
    """Let what came of impressions be what the person says of the item now."""
    mine = sa.and_(_s.user_id == user_id, _s.item_id == item_id, _s.attributed)
    connection.execute(sa.update(tables.shown_items).where(mine).values(liked=liked))


def move(connection: sa.Connection, user_id: str, into: str) -> None:
    """Let a user's impressions be another's."""
    for table in (tables.impressions, tables.shown_items):
        connection.execute(sa.update(table).where(table.c.user_id == user_id).values(user_id=into))


def impressions_of(connection: sa.Connection, user_id: str) -> list[HeldImpression]:
    """All that is held of what a user was shown, in order of time."""
    query = sa.select(tables.impressions, _s.item_id, _s.attributed, _s.liked, _s.request_id).join(
        tables.shown_items, _SAME
    )
    mine = query.where(_i.user_id == user_id).order_by(_i.shown_at, _i.recommendation_id, _s.item_id)
    found: dict[str, HeldImpression] = {}
    for row in connection.execute(mine):
        empty = HeldImpression(row.recommendation_id, row.generation, row.shown_at, ())
        held = found.setdefault(row.recommendation_id, empty)
        item = ShownItem(row.item_id, bool(row.attributed), bool(row.liked), _set_aside_by(row.request_id))
        found[row.recommendation_id] = replace(held, items=(*held.items, item))
    return list(found.values())


def _set_aside_by(request_id: str | None) -> RestraintKind | None:
    if request_id is None:
        return None
    return "restriction" if request_id == RESTRICTED else "hold"


def _record(connection: sa.Connection, given: Sequence[Impression], hashes: KeyedHashes, now: float) -> int:
    keyed_ones = [replace(one, user_id=keyed(one.user_id)) for one in given]
    users = {one.user_id for one in keyed_ones} & _with_rows(connection, {one.user_id for one in keyed_ones})
    late = _deletions_since(connection, keyed_ones, users, hashes)
    wanted = [one for one in keyed_ones if one.user_id in users and not _is_overtaken(one, late)]
    kept = [one for one in _without_what_is_gone(connection, wanted, hashes, now) if one.item_ids]
    insert_new(
        connection,
        tables.impressions,
        [
            {
                "user_id": one.user_id,
                "recommendation_id": one.recommendation_id,
                "generation": one.generation,
                "shown_at": one.shown_at,
            }
            for one in kept
        ],
    )
    shown = [
        {"user_id": one.user_id, "recommendation_id": one.recommendation_id, "item_id": item_id}
        for one in kept
        for item_id in one.item_ids
    ]
    insert_new(connection, tables.shown_items, shown)
    return len(kept)


def _with_rows(connection: sa.Connection, users: Collection[str]) -> set[str]:
    """Those of whom rows are in use. Nobody else is known; rows of who is restricted are set aside."""
    return {
        user
        for table in TABLES
        for some in chunks(users)
        for user in connection.scalars(sa.select(table.c.user_id).where(table.c.user_id.in_(some)).distinct())
    }


def _deletions_since(
    connection: sa.Connection, given: Sequence[Impression], users: Collection[str], hashes: KeyedHashes
) -> Mapping[str, Sequence[ForgetRequest]]:
    """User -> their deletions since the first of these was shown."""
    if not users:
        return {}
    c = tables.forget_requests.c
    fence, shown_at = min(one.fence for one in given), min(one.shown_at for one in given)
    # By the fence, which no clock sets back; by the time, as what found nothing to erase raises no fence.
    late = find_requests(connection, sa.or_(c.fence > fence, c.accepted_at >= shown_at))
    if not late:  # as a rule; then nobody need be hashed
        return {}
    known_as = {subject: user for user in users for subject in hashes.subjects(user)}
    found: dict[str, list[ForgetRequest]] = {}
    for request in late:
        if request.subject in known_as:
            found.setdefault(known_as[request.subject], []).append(request)
    return found


def _is_overtaken(one: Impression, late: Mapping[str, Sequence[ForgetRequest]]) -> bool:
    return any(
        request.fence > one.fence or request.accepted_at >= one.shown_at for request in late.get(one.user_id, ())
    )


def _without_what_is_gone(
    connection: sa.Connection, given: Sequence[Impression], hashes: KeyedHashes, now: float
) -> list[Impression]:
    """Without items that are no more, and those of which the person wants nothing held."""
    subjects = {one.user_id: hashes.subject(one.user_id) for one in given}
    known = known_ids(connection, {item_id for one in given for item_id in one.item_ids})
    rows = [
        Interaction(one.user_id, item_id, True, math.floor(one.shown_at)) for one in given for item_id in one.item_ids
    ]
    buried = tombstones.over(connection, rows, subjects, hashes, now)
    return [
        replace(one, item_ids=tuple(i for i in one.item_ids if i in known and (one.user_id, i) not in buried))
        for one in given
    ]


def _attribute(connection: sa.Connection, citations: Sequence[Citation]) -> list[bool]:
    keys = [_key_of(citation) for citation in citations]
    place = sa.tuple_(_s.user_id, _s.recommendation_id, _s.item_id)
    columns = sa.select(_s.user_id, _s.recommendation_id, _s.item_id)
    known: set[tuple[str, str, str]] = set()
    for some in chunks({key for key in keys if key is not None}):
        known.update((row[0], row[1], row[2]) for row in connection.execute(columns.where(_IN_USE, place.in_(some))))
    liked = {key for key, citation in zip(keys, citations, strict=True) if key in known and citation.liked}
    for marks, marked in (({"attributed": True}, known - liked), ({"attributed": True, "liked": True}, liked)):
        for some in chunks(sorted(marked)):
            connection.execute(sa.update(tables.shown_items).where(place.in_(some)).values(**marks))
    return [key in known for key in keys]


def _key_of(citation: Citation) -> tuple[str, str, str] | None:
    if not is_storable(citation.recommendation_id):
        return None
    return keyed(citation.user_id), citation.recommendation_id, keyed(citation.item_id, "an item_id")


def _figures() -> sa.Select[Any]:
    """Generation, people, impressions, those with an item that was liked, items shown, those with an event attributed."""
    one = sa.cast(_s.attributed, sa.Integer)
    each = (
        sa.select(
            _s.user_id,
            _s.recommendation_id,
            sa.func.count().label("shown"),
            sa.func.sum(one).label("attributed"),
            sa.func.max(sa.cast(_s.liked, sa.Integer)).label("hit"),
        )
        .where(_IN_USE)
        .group_by(_s.user_id, _s.recommendation_id)
        .subquery()
    )
    same = sa.and_(_i.user_id == each.c.user_id, _i.recommendation_id == each.c.recommendation_id)
    return (
        sa.select(
            _i.generation,
            sa.func.count(_i.user_id.distinct()).label("people"),
            sa.func.count().label("impressions"),
            sa.func.sum(each.c.hit).label("hits"),
            sa.func.sum(each.c.shown).label("shown"),
            sa.func.sum(each.c.attributed).label("attributed"),
        )
        .join(each, same)
        .group_by(_i.generation)
        .order_by(sa.func.max(_i.shown_at).desc(), _i.generation)
    )


def _quality_of(row: Row) -> OnlineQuality:
    if row.people < SMALLEST_GROUP:
        return OnlineQuality(row.generation, None, None, None, None)
    hit_rate, click_through = int(row.hits) / row.impressions, int(row.attributed) / int(row.shown)
    return OnlineQuality(row.generation, row.people, row.impressions, hit_rate, click_through)


def _prune_some(connection: sa.Connection, before: float, hashes: KeyedHashes) -> int:
    old = sa.select(_i.user_id, _i.recommendation_id).where(_i.shown_at < before)
    kept = _restrained(connection, before, hashes)
    query = old.where(_i.user_id.not_in(kept)) if kept else old
    found = [(user, one) for user, one in connection.execute(query.order_by(_i.shown_at).limit(_AT_ONCE))]
    for table in (tables.shown_items, tables.impressions):
        for some in chunks(found):
            place = sa.tuple_(table.c.user_id, table.c.recommendation_id)
            connection.execute(sa.delete(table).where(place.in_(some)))
    return len(found)


def _restrained(connection: sa.Connection, before: float, hashes: KeyedHashes) -> list[str]:
    """Those who were shown something before this, and of whom nothing is to be erased now."""
    restrained = {one.subject for one in read_restraints(connection)}
    if not restrained:  # as a rule; then nobody need be hashed
        return []
    users = connection.scalars(sa.select(_i.user_id).where(_i.shown_at < before).distinct())
    return [user for user in users if not restrained.isdisjoint(hashes.subjects(user))]


def _drop_empty(connection: sa.Connection, users: Iterable[str]) -> None:
    left = sa.exists(
        sa.select(sa.literal(1)).select_from(tables.shown_items).where(_SAME).correlate(tables.impressions)
    )
    for some in chunks(users):
        connection.execute(sa.delete(tables.impressions).where(_i.user_id.in_(some), ~left))


def _parts(among: Iterable[str] | None) -> Iterator[list[str] | None]:
    if among is None:
        yield None
    else:
        yield from chunks(among)


def _of(user_id: str, some: list[str] | None) -> sa.ColumnElement[bool]:
    mine = _s.user_id == user_id
    return mine if some is None else sa.and_(mine, _s.item_id.in_(some))

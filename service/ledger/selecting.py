"""Rows that are selected to be forgotten: by item, person, time or source. Polluted data is forgotten as a person's is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from service.errors import InvalidInput, SelectionChanged
from service.ledger import aside, tables
from service.ledger.hashes import KeyedHashes
from service.ledger.rows import TABLES
from service.ledger.statements import chunks, keyed
from service.records import ById, WantedForget

MOST_ITEMS = 500  # no index leads from an item to its rows, so that all are named in one reading


@dataclass(frozen=True, slots=True)
class RowSelection:
    """Rows that meet all conditions that are given. `since` is within, `until` without; seconds since the epoch."""

    item_ids: tuple[str, ...] | None = None
    user_ids: tuple[str, ...] | None = None
    since: int | None = None
    until: int | None = None
    sources: tuple[str, ...] | None = None

    @property
    def is_everything(self) -> bool:
        return self == RowSelection()


@dataclass(frozen=True, slots=True)
class SelectedRows:
    """Whose rows of which items were found. `digest` (keyed) is one for as long as exactly these are."""

    by_user: Mapping[str, tuple[str, ...]]
    digest: str

    @property
    def interactions(self) -> int:
        return sum(map(len, self.by_user.values()))

    @property
    def items(self) -> int:
        return len({item for own in self.by_user.values() for item in own})

    def previewed(self, digest: str) -> list[WantedForget]:
        """These rows as a deletion wants them, if they are those of which a preview told this digest.

        Raises SelectionChanged.
        """
        if digest != self.digest:
            raise SelectionChanged(
                "other rows are selected now than when the digest was given; nothing was forgotten. Preview the selection again"
            )
        return [(user, tuple(ById(item) for item in items)) for user, items in self.by_user.items()]


def select_rows(
    connection: sa.Connection, selection: RowSelection, most_users: int, hashes: KeyedHashes
) -> SelectedRows:
    """Find the rows, on both sides of the horizon and of restricted people: who has two of one item is selected by either.

    Raises InvalidInput for a selection without a condition, of more people than `most_users`, and for what is no id.
    """
    if selection.is_everything:
        raise InvalidInput("the selection has no condition, so it would be everything of everybody; give one")
    found: dict[str, set[str]] = {}
    for query in _queries(selection):
        for user_id, item_id in connection.execute(query.execution_options(yield_per=1_000)):
            found.setdefault(user_id, set()).add(item_id)
        if len(found) > most_users:
            raise InvalidInput(f"the selection is of more than {most_users} people; narrow it, by time or by people")
    by_user = {user_id: tuple(sorted(items)) for user_id, items in sorted(found.items())}
    return SelectedRows(by_user, hashes.of("selection", json.dumps(by_user)))


def _queries(selection: RowSelection) -> Iterator[sa.Select[str, str]]:
    users = None if selection.user_ids is None else [keyed(user) for user in selection.user_ids]
    parts: Sequence[list[str] | None] = [None] if users is None else [list(part) for part in chunks(users)]
    items = None if selection.item_ids is None else [keyed(item, "an item_id") for item in selection.item_ids]
    for table in (*TABLES, tables.set_aside):
        c = table.c
        within: list[sa.ColumnElement[bool]] = []
        within += [] if items is None else [c.item_id.in_(items)]
        within += [] if selection.since is None else [c.timestamp >= selection.since]
        within += [] if selection.until is None else [c.timestamp < selection.until]
        within += [] if selection.sources is None else [c.source.in_(selection.sources)]
        # What is kept for a legal hold alone was asked to be erased already.
        within += [c.request_id == aside.RESTRICTED] if table is tables.set_aside else []
        for part in parts:
            whose = [] if part is None else [c.user_id.in_(part)]
            yield sa.select(c.user_id, c.item_id).where(*within, *whose)

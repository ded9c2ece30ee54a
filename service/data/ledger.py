"""The one truth about who is in the model and which deletions are owed. SQLAlchemy Core over SQLite or PostgreSQL.

Every write is one transaction, and writers queue: on SQLite by `BEGIN IMMEDIATE`, on PostgreSQL by locking the one row of
`state`. So a deletion, its masks and its place in the order of deletions (the fence) become visible together.

What remains of a forgotten user: their keyed hash (in `forget_requests` and `tombstones`), and the names of the artifacts
that had seen them, until these artifacts are replaced.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.errors import (
    IdempotencyConflict,
    ImportRefused,
    InvalidInput,
    InvalidSetting,
    LedgerUnavailable,
    UnknownRequest,
    UnknownUser,
)
from service.records import ForgetRequest, Interaction, Item, LedgerView, Mask, Opinion

DEFAULT_NOUN = "item"
BUSY_SECONDS = 5.0
OWED_STATES = ("accepted", "retraining", "failed")
REQUEST_STATES = (*OWED_STATES, "completed")

_CHUNK = 500  # rows or ids per statement: below SQLite's limit on bound variables
_SCHEMA_LOCK = 0x1E74E  # PostgreSQL advisory lock held while tables are made
_TIMESTAMP_LIMIT = 2**63
_WHOLE_USER = ""
_BEGIN = "ledger_begin"  # execution option: how SQLite opens the transaction

_T = TypeVar("_T")
_Row = sa.Row[Any]

# Byte order on both databases, as Python sorts: other collations would give other histories.
_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_metadata = sa.MetaData()


def _table(name: str, *columns: sa.Column[Any], indexed: str | None = None) -> sa.Table:
    indexes = [sa.Index(f"{name}_{indexed}", indexed)] if indexed else []
    return sa.Table(name, _metadata, *columns, *indexes, sqlite_with_rowid=False)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, _Text, primary_key=True)


def _text(name: str, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, _Text, nullable=nullable)


def _whole(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, default=0)


_items = _table(
    "items",
    _key("item_id"),
    _text("title"),
    sa.Column("year", sa.Integer),
    _text("genres"),
    _text("author", nullable=True),
    indexed="title",
)
_interactions = _table(
    "interactions",
    _key("user_id"),
    sa.Column("item_id", _Text, sa.ForeignKey("items.item_id"), primary_key=True),
    sa.Column("liked", sa.Boolean, nullable=False),
    _whole("timestamp"),
)
_state = _table(
    "state",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    _whole("fence"),
    _whole("revision"),
    _text("generation", nullable=True),
    _whole("published_fence"),
    _whole("shards_training"),
    _text("noun", nullable=True),
)
_placements = _table(
    "placements", _key("unit_key"), _text("user_id"), _text("digest"), _text("path"), indexed="user_id"
)
_memberships = _table(
    "memberships", _key("partition_digest"), _key("unit_key"), _text("user_id"), _text("shard"), indexed="user_id"
)
_exposures = _table("exposures", _key("kind"), _key("key"), _key("user_id"), indexed="user_id")
_forget_requests = _table(
    "forget_requests",
    _key("request_id"),
    _text("subject"),
    _text("scope"),
    _text("state"),
    _whole("fence"),
    _text("affected_shards"),
    _whole("erased_interactions"),
    _whole("masked_rows"),
    sa.Column("accepted_at", sa.Double, nullable=False),
    sa.Column("retraining_at", sa.Double),
    sa.Column("completed_at", sa.Double),
    _whole("attempts"),
    _text("error", nullable=True),
    _text("receipt", nullable=True),
    indexed="subject",
)
_idempotency = _table("idempotency", _key("key_hash"), _text("content_hash"), _text("request_id"))
_masks = _table("masks", _key("kind"), _key("key"), _key("request_id"), indexed="request_id")
_tombstones = _table("tombstones", _key("subject"), _key("item_id"), _text("request_id"))


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
class LedgerCounts:
    items: int
    interactions: int
    users: int


class Ledger:
    """An open ledger; safe to share among threads.

    `url` is an SQLAlchemy URL of an SQLite file or of PostgreSQL. `secret` keys the hashes of user ids: with another secret,
    tombstones no longer recognize anybody. Every method raises LedgerUnavailable when the database cannot be asked.
    """

    def __init__(self, url: str, secret: bytes) -> None:
        if not secret:
            raise InvalidSetting("the ledger's secret is empty; give it random bytes and keep them")
        self._secret = secret
        self._engine = _open_engine(url)
        self._sqlite = self._engine.dialect.name == "sqlite"
        self._mask_lock = threading.Lock()
        self._known_mask: Mask | None = None
        self._prepare()

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Transactions

    @contextmanager
    def _connection(self, **options: Any) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect().execution_options(**options) as connection:
                yield connection
        except (DBAPIError, PoolTimeout) as error:
            # The text of a refused row quotes the row, so only errors of the connection are shown as the cause.
            cause = error if isinstance(error, (OperationalError, InterfaceError, PoolTimeout)) else None
            raise LedgerUnavailable(f"the ledger's database cannot be asked ({_driver_word(error)})") from cause

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        options = {_BEGIN: "BEGIN"} if self._sqlite else {"isolation_level": "REPEATABLE READ"}
        with self._connection(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        options = {_BEGIN: "BEGIN IMMEDIATE"} if self._sqlite else {"isolation_level": "READ COMMITTED"}
        with self._connection(**options) as connection, connection.begin():
            if not self._sqlite:
                connection.execute(sa.select(_state.c.id).with_for_update()).all()
            yield connection

    @contextmanager
    def _outside_transactions(self) -> Iterator[sa.Connection]:
        options = {} if self._sqlite else {"isolation_level": "AUTOCOMMIT"}
        with self._connection(**options) as connection:
            yield connection

    def _prepare(self) -> None:
        if self._sqlite:
            # Two processes that open a new file at once: SQLite refuses one of them without its busy timeout.
            self._insist(lambda connection: connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar() == "wal")
        with self._connection(**{_BEGIN: "BEGIN IMMEDIATE"}) as connection, connection.begin():
            if not self._sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            _metadata.create_all(connection)
            _insert_new(connection, _state, [{"id": 1}])

    def _insist(self, attempt: Callable[[sa.Connection], bool]) -> None:
        deadline = time.monotonic() + BUSY_SECONDS
        while not self._attempted(attempt):
            if time.monotonic() > deadline:
                raise LedgerUnavailable("the ledger's file stays in use by others; close long readers and try again")
            time.sleep(0.02)

    def _attempted(self, attempt: Callable[[sa.Connection], bool]) -> bool:
        try:
            with self._outside_transactions() as connection:
                return attempt(connection)
        except LedgerUnavailable as error:
            if "SQLITE_BUSY" in str(error):
                return False
            raise

    # Keyed hashes

    def subject(self, user_id: str) -> str:
        """The keyed hash under which a user is known after their deletion: hex HMAC-SHA256 of the id."""
        return self._keyed("subject", _storable(user_id))

    def _keyed(self, purpose: str, *parts: str) -> str:
        message = json.dumps([purpose, *parts]).encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()

    # What is known

    def import_data(
        self,
        items: Iterable[Item],
        interactions: Iterable[Interaction],
        noun: str | None,
        allow_returning: bool = False,
    ) -> ImportCounts:
        """Take in a catalogue and interactions, all or nothing. Of two rows with one key the last counts.

        Rows that the ledger already holds change nothing. Interactions under a tombstone are skipped, unless
        `allow_returning` says that their users came back of their own will: then these tombstones are removed.
        Raises ImportRefused for an interaction with an unknown item, or another noun than the catalogue's.
        """
        given_items = {item.item_id: item for item in items}
        given = {(row.user_id, row.item_id): row for row in interactions}
        _check_importable(given_items.values(), given.values())
        subjects = {user_id: self.subject(user_id) for user_id, _ in given}
        with self._writing() as connection:
            named = _take_noun(connection, noun)
            returned, banned = _tombstones_met(connection, given, subjects, allow_returning)
            wanted = [row for pair, row in given.items() if pair not in banned]
            new_items, changed_items = _take_items(connection, given_items)
            _check_items_known(connection, given_items, wanted)
            new, changed = _take_interactions(connection, wanted)
            if named or returned or new_items or changed_items or new or changed:
                _raise_revision(connection)
        return ImportCounts(len(given_items), len(given), len(subjects), new_items, new, changed, len(banned))

    def noun(self) -> str:
        """What the catalogue's items are called in prompts; "item" until an import has said."""
        with self._reading() as connection:
            return _noun(connection)

    def items(self) -> tuple[Item, ...]:
        """The catalogue, by item id."""
        with self._reading() as connection:
            return _all_items(connection)

    def items_by_id(self, ids: Iterable[str]) -> dict[str, Item]:
        """The items with these ids; unknown ids are absent."""
        with self._reading() as connection:
            return _items_where(connection, _items.c.item_id, ids, lambda item: item.item_id)

    def find_titles(self, titles: Iterable[str]) -> dict[str, Item]:
        """Title -> item, for exact titles; of several items with one title, that with the smallest id."""
        with self._reading() as connection:
            return _items_where(connection, _items.c.title, titles, lambda item: item.title)

    def history(self, user_id: str, limit: int) -> tuple[Opinion, ...]:
        """The user's last `limit` opinions, oldest first. Raises UnknownUser when there are none."""
        mine = _interactions.c.user_id == _storable(user_id)
        newest_first = (_interactions.c.timestamp.desc(), _interactions.c.item_id.desc())
        query = sa.select(*_items.c, _interactions.c.liked).join_from(_interactions, _items)
        with self._reading() as connection:
            rows = connection.execute(query.where(mine).order_by(*newest_first).limit(limit)).all()
        if not rows:
            raise UnknownUser("nothing is held of this user")
        return tuple(Opinion(_item(row), row.liked) for row in reversed(rows))

    def seen(self, user_id: str) -> frozenset[str]:
        """Ids of the items that the user has interacted with; empty for an unknown user."""
        query = sa.select(_interactions.c.item_id).where(_interactions.c.user_id == _storable(user_id))
        with self._reading() as connection:
            return frozenset(connection.scalars(query))

    def counts(self) -> LedgerCounts:
        with self._reading() as connection:
            users = connection.scalar(sa.select(sa.func.count(_interactions.c.user_id.distinct())))
            return LedgerCounts(_count(connection, _items), _count(connection, _interactions), int(users or 0))

    def view(self) -> LedgerView:
        """One consistent reading of everything that a build wants, whatever the order in which it came in."""
        c = _interactions.c
        with self._reading() as connection:
            fence = _read_state(connection).fence
            noun, items = _noun(connection), _all_items(connection)
            rows = connection.execute(sa.select(_interactions).order_by(c.user_id, c.timestamp, c.item_id)).all()
        by_user = {
            user_id: tuple(Interaction(user_id, row.item_id, row.liked, row.timestamp) for row in mine)
            for user_id, mine in groupby(rows, key=lambda row: str(row.user_id))
        }
        return LedgerView(fence, noun, items, by_user)

    # Where each unit stands

    def placements(self) -> dict[str, tuple[str, str]]:
        """Unit key -> (digest of what the path was computed from, path in the public tree)."""
        with self._reading() as connection:
            return {row.unit_key: (row.digest, row.path) for row in connection.execute(sa.select(_placements))}

    def save_placements(self, rows: Iterable[tuple[str, str, str, str]]) -> None:
        """Store (user_id, unit_key, digest, path), replacing; users of whom nothing is held are left out."""
        columns = ("user_id", "unit_key", "digest", "path")
        given = [dict(zip(columns, row, strict=True)) for row in rows]
        with self._writing() as connection:
            _upsert(connection, _placements, _of_held_users(connection, given))

    def recorded_partition(self, partition_digest: str) -> dict[str, str]:
        """Unit key -> shard name, as recorded under this digest; empty when nothing is."""
        query = sa.select(_memberships).where(_memberships.c.partition_digest == partition_digest)
        with self._reading() as connection:
            return {row.unit_key: row.shard for row in connection.execute(query)}

    def record_partition(self, partition_digest: str, rows: Iterable[tuple[str, str, str]]) -> None:
        """Store (unit_key, user_id, shard name) under this digest; users of whom nothing is held are left out."""
        columns = ("partition_digest", "unit_key", "user_id", "shard")
        given = [dict(zip(columns, (partition_digest, *row), strict=True)) for row in rows]
        with self._writing() as connection:
            _upsert(connection, _memberships, _of_held_users(connection, given))

    # Who has been seen by what

    def record_exposures(self, view_fence: int, adapters: Mapping[str, Iterable[str]], rows: Mapping[str, str]) -> None:
        """Note that these adapters (digest -> user ids) and validation rows (key -> user id) have seen these users.

        To be called before any of them is used. Whoever asked for deletion after the view of `view_fence` was read is
        masked here at once: at the time of their request, nobody knew that these artifacts would see them.
        """
        seen = [("adapter", digest, user) for digest, users in adapters.items() for user in users]
        seen += [("row", key, user) for key, user in rows.items()]
        with self._writing() as connection:
            late = self._late_requests(connection, view_fence, {user for _, _, user in seen})
            gone = {user for user, requests in late.items() if any(r.scope == "user" for r in requests)}
            masks = [_mask_row(kind, key, r.request_id) for kind, key, user in seen for r in late.get(user, ())]
            kept = [{"kind": kind, "key": key, "user_id": user} for kind, key, user in seen if user not in gone]
            _insert_new(connection, _exposures, kept)
            if _insert_new(connection, _masks, masks):
                _raise_revision(connection)

    def _late_requests(
        self, connection: sa.Connection, view_fence: int, users: Collection[str]
    ) -> dict[str, list[ForgetRequest]]:
        late = _requests(connection, _forget_requests.c.fence > view_fence)
        if not late:
            return {}
        user_of = {self.subject(user): user for user in users}
        by_user: dict[str, list[ForgetRequest]] = {}
        for request in late:
            if request.subject in user_of:
                by_user.setdefault(user_of[request.subject], []).append(request)
        return by_user

    def drop_exposures_except(self, adapters: Collection[str], rows: Collection[str]) -> None:
        """Forget who was seen by artifacts that exist no more; also masks that outlived their request and artifact."""
        kept = {"adapter": frozenset(adapters), "row": frozenset(rows)}
        completed = sa.select(_forget_requests.c.request_id).where(_forget_requests.c.state == "completed")
        with self._writing() as connection:
            _delete_gone(connection, _exposures, kept, sa.true())
            if _delete_gone(connection, _masks, kept, _masks.c.request_id.in_(completed)):
                _raise_revision(connection)

    # Deletions

    def forget(self, user_id: str, item_ids: Sequence[str] | None, idempotency_key: str | None) -> ForgetRequest:
        """Delete a user (or only these of their interactions) and mask all that has seen them, in one transaction.

        The answer is `completed` at once when nothing was held. A user whose deletion is still owed gets that request.
        Raises InvalidInput for an empty list of items, IdempotencyConflict for a key used for another request.
        """
        if item_ids is not None and not item_ids:
            raise InvalidInput("item_ids is empty; leave it out to forget the whole user")
        wish = _Wish(user_id, self.subject(user_id), None if item_ids is None else frozenset(map(_storable, item_ids)))
        content = self._keyed("content", wish.subject, wish.scope, *sorted(wish.item_ids or ()))
        with self._writing() as connection:
            if idempotency_key is None:
                return _accept(connection, wish)
            key_hash = self._keyed("idempotency", idempotency_key)
            known = connection.execute(sa.select(_idempotency).where(_idempotency.c.key_hash == key_hash)).first()
            if known is not None:
                return _answer_again(connection, known, content)
            request = _accept(connection, wish)
            row = {"key_hash": key_hash, "content_hash": content, "request_id": request.request_id}
            _insert_new(connection, _idempotency, [row])
            return request

    def request(self, request_id: str) -> ForgetRequest:
        """Raises UnknownRequest."""
        with self._reading() as connection:
            return _one_request(connection, request_id)

    def owed(self) -> list[ForgetRequest]:
        """Deletions that are not completed, oldest first; failed ones are to be tried again."""
        with self._reading() as connection:
            return _requests(connection, _forget_requests.c.state.in_(OWED_STATES))

    def start(self, request_ids: Iterable[str]) -> None:
        """Note that work on these owed requests begins; completed ones are left as they are."""
        first_time = sa.func.coalesce(_forget_requests.c.retraining_at, time.time())
        attempts = _forget_requests.c.attempts + 1
        self._change_owed(request_ids, state="retraining", retraining_at=first_time, attempts=attempts, error=None)

    def fail(self, request_ids: Iterable[str], reason: str) -> None:
        """Note why the last attempt failed; the requests stay owed. `reason` may be shown to anybody."""
        self._change_owed(request_ids, state="failed", error=reason)

    def _change_owed(self, request_ids: Iterable[str], **values: Any) -> None:
        owed = _forget_requests.c.state.in_(OWED_STATES)
        with self._writing() as connection:
            for ids in _chunks(request_ids):
                chosen = _forget_requests.c.request_id.in_(ids)
                connection.execute(sa.update(_forget_requests).where(chosen, owed).values(**values))

    def complete(self, request_id: str, receipt: str) -> None:
        """Note that a deletion is done: its masks fall. Completing again changes nothing. Raises UnknownRequest."""
        with self._writing() as connection:
            if _one_request(connection, request_id).state == "completed":
                return
            done = {"state": "completed", "completed_at": time.time(), "receipt": receipt, "error": None}
            this = _forget_requests.c.request_id == request_id
            connection.execute(sa.update(_forget_requests).where(this).values(**done))
            connection.execute(sa.delete(_masks).where(_masks.c.request_id == request_id))
            _raise_revision(connection)

    def publish(self, generation: str, fence: int) -> None:
        """Note the generation that is served, and the fence of the view that it was built from."""
        with self._writing() as connection:
            state = _read_state(connection)
            if (state.generation, state.published_fence) != (generation, fence):
                _raise_revision(connection, generation=generation, published_fence=fence)

    def set_shards_training(self, count: int) -> None:
        with self._writing() as connection:
            connection.execute(sa.update(_state).values(shards_training=count))

    def erase_traces(self) -> None:
        """Overwrite what deleted rows left in the database's own files.

        SQLite: the file is rewritten (a page that was split keeps a stale copy of moved rows, which `secure_delete` does
        not see), and the write-ahead log is emptied; waits up to 5 s for long readers, then raises LedgerUnavailable.
        PostgreSQL: VACUUM, which frees the rows' space for reuse; WAL archives and backups are the operator's.
        """
        if self._sqlite:
            self._insist(_rewrite_file)
            self._insist(_empty_wal)
            return
        with self._outside_transactions() as connection:
            for table in (_interactions, _placements, _memberships, _exposures):
                connection.exec_driver_sql(f"VACUUM {table.name}")

    # How things stand

    def mask(self) -> Mask:
        """What may not be used now. Cheap: one row is read while nothing has changed."""
        with self._mask_lock:
            known = self._known_mask
        with self._reading() as connection:
            state = _read_state(connection)
            if known is not None and known.revision == state.revision:
                return known
            masked: dict[str, set[str]] = {"adapter": set(), "row": set()}
            for kind, key in connection.execute(sa.select(_masks.c.kind, _masks.c.key)):
                masked[kind].add(key)
        adapters, rows = frozenset(masked["adapter"]), frozenset(masked["row"])
        fresh = Mask(state.revision, state.fence, state.generation, adapters, rows)
        with self._mask_lock:
            if self._known_mask is None or self._known_mask.revision < fresh.revision:
                self._known_mask = fresh
        return fresh

    def generation(self) -> str | None:
        """The published generation, if any."""
        with self._reading() as connection:
            generation: str | None = _read_state(connection).generation
            return generation

    def published_fence(self) -> int:
        """The fence of the view that the published generation was built from; 0 before the first."""
        with self._reading() as connection:
            return int(_read_state(connection).published_fence)

    def shards_training(self) -> int:
        with self._reading() as connection:
            return int(_read_state(connection).shards_training)

    def requests_by_state(self) -> dict[str, int]:
        """Every state -> how many requests are in it."""
        state = _forget_requests.c.state
        with self._reading() as connection:
            found = connection.execute(sa.select(state, sa.func.count()).group_by(state)).all()
        return dict.fromkeys(REQUEST_STATES, 0) | {row[0]: row[1] for row in found}

    def completion_times(self) -> list[tuple[float, float]]:
        """(accepted_at, completed_at) in seconds of the deletions that were owed for a time, oldest first."""
        c = _forget_requests.c
        query = sa.select(c.accepted_at, c.completed_at).where(c.completed_at > c.accepted_at).order_by(c.accepted_at)
        with self._reading() as connection:
            return [(row.accepted_at, row.completed_at) for row in connection.execute(query)]

    def oldest_owed_age(self, now: float) -> float:
        """Seconds since the oldest owed deletion was accepted; 0 when none is owed."""
        c = _forget_requests.c
        query = sa.select(sa.func.min(c.accepted_at)).where(c.state.in_(OWED_STATES))
        with self._reading() as connection:
            oldest = connection.scalar(query)
        return 0.0 if oldest is None else max(0.0, now - oldest)


@dataclass(frozen=True, slots=True)
class _Wish:
    user_id: str
    subject: str
    item_ids: frozenset[str] | None

    @property
    def scope(self) -> str:
        return "user" if self.item_ids is None else "interactions"


# Opening a database


def _open_engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InvalidSetting("the ledger's URL cannot be read; expected sqlite:///file or postgresql://…") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _open_sqlite(parsed)
    if backend in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
        return sa.create_engine(parsed, hide_parameters=True, pool_pre_ping=True)
    raise InvalidSetting(f"the ledger lives in SQLite or PostgreSQL, not in {backend!r}")


def _open_sqlite(url: sa.URL) -> sa.Engine:
    if url.database in (None, "", ":memory:"):
        raise InvalidSetting("the ledger needs a file: deletions owed must outlive the process")
    _make_folder(Path(str(url.database)).parent)
    engine = sa.create_engine(
        url.set(drivername="sqlite"), hide_parameters=True, connect_args={"timeout": BUSY_SECONDS}
    )
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerUnavailable(f"the ledger's folder cannot be made ({type(error).__name__})") from error


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver must not open transactions by itself: `_begin_sqlite` says which kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("foreign_keys=ON", "secure_delete=ON", "synchronous=FULL", "temp_store=MEMORY"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    statement = connection.get_execution_options().get(_BEGIN)
    if statement is not None:
        connection.exec_driver_sql(statement)


def _rewrite_file(connection: sa.Connection) -> bool:
    connection.exec_driver_sql("VACUUM")
    return True


def _empty_wal(connection: sa.Connection) -> bool:
    busy, _pages, _moved = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    return not busy


def _driver_word(error: Exception) -> str:
    # The driver's name for the error, never its text: that may quote a row.
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
    return f"{type(original or error).__name__} {code or ''}".strip()


# Statements


def _insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def _insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert the rows whose key is not there yet; returns how many."""
    before = _count(connection, table)
    if rows:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), [dict(row) for row in rows])
    return _count(connection, table) - before


def _upsert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    statement = _insert(connection, table)
    replaced = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=replaced), [dict(row) for row in rows])


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def _chunks(values: Iterable[_T]) -> Iterator[list[_T]]:
    chosen = list(values)
    for start in range(0, len(chosen), _CHUNK):
        yield chosen[start : start + _CHUNK]


def _read_state(connection: sa.Connection) -> _Row:
    return connection.execute(sa.select(_state)).one()


def _raise_revision(connection: sa.Connection, **values: Any) -> None:
    connection.execute(sa.update(_state).values(revision=_state.c.revision + 1, **values))


def _noun(connection: sa.Connection) -> str:
    return str(_read_state(connection).noun or DEFAULT_NOUN)


def _item(row: _Row) -> Item:
    return Item(row.item_id, row.title, row.year, tuple(json.loads(row.genres)), row.author)


def _all_items(connection: sa.Connection) -> tuple[Item, ...]:
    return tuple(map(_item, connection.execute(sa.select(_items).order_by(_items.c.item_id))))


def _items_where(
    connection: sa.Connection, column: sa.Column[Any], values: Iterable[str], name: Callable[[Item], str]
) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for chunk in _chunks({value for value in values if _is_storable(value)}):
        for row in connection.execute(sa.select(_items).where(column.in_(chunk)).order_by(_items.c.item_id)):
            item = _item(row)
            found.setdefault(name(item), item)
    return found


def _of_held_users(connection: sa.Connection, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    # A user forgotten since the caller read its view must not come back through what was computed from it.
    held: set[str] = set()
    for chunk in _chunks({row["user_id"] for row in rows}):
        column = _interactions.c.user_id
        held.update(connection.scalars(sa.select(column).where(column.in_(chunk)).distinct()))
    return [row for row in rows if row["user_id"] in held]


def _delete_gone(
    connection: sa.Connection, table: sa.Table, kept: Mapping[str, frozenset[str]], only: sa.ColumnElement[bool]
) -> int:
    deleted = 0
    for kind, alive in kept.items():
        of_kind = table.c.kind == kind
        held = set(connection.scalars(sa.select(table.c.key).where(of_kind, only).distinct()))
        for chunk in _chunks(held - alive):
            deleted += connection.execute(sa.delete(table).where(of_kind, only, table.c.key.in_(chunk))).rowcount
    return deleted


# Import


def _is_storable(text: str) -> bool:
    # PostgreSQL takes no NUL, and neither database a lone surrogate.
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _storable(text: str) -> str:
    if not _is_storable(text):
        raise InvalidInput("an id holds a character that cannot be stored (NUL or a lone surrogate)")
    return text


def _check_importable(items: Iterable[Item], interactions: Iterable[Interaction]) -> None:
    texts = {text for item in items for text in (item.item_id, item.title, item.author or "", *item.genres)}
    for row in interactions:
        texts.update((row.user_id, row.item_id))
        if not -_TIMESTAMP_LIMIT <= row.timestamp < _TIMESTAMP_LIMIT:
            raise ImportRefused("a timestamp is out of range; expected seconds since the epoch")
    if not all(map(_is_storable, texts)):
        raise ImportRefused("an id or title holds a character that cannot be stored (NUL or a lone surrogate)")


def _take_noun(connection: sa.Connection, noun: str | None) -> bool:
    known = _read_state(connection).noun
    if noun is None or noun == known:
        return False
    if known is not None and _count(connection, _items):
        raise ImportRefused(f"this ledger's catalogue is of the noun {known!r}, not {noun!r}; use a ledger of its own")
    connection.execute(sa.update(_state).values(noun=noun))
    return True


def _tombstones_met(
    connection: sa.Connection,
    given: Collection[tuple[str, str]],
    subjects: Mapping[str, str],
    allow_returning: bool,
) -> tuple[int, set[tuple[str, str]]]:
    """How many tombstones were removed, and the given pairs that stay banned."""
    buried: dict[str, set[str]] = {}
    for chunk in _chunks(subjects.values()):
        for row in connection.execute(sa.select(_tombstones).where(_tombstones.c.subject.in_(chunk))):
            buried.setdefault(row.subject, set()).add(row.item_id)
    banned = {(user, item) for user, item in given if buried.get(subjects[user], set()) & {_WHOLE_USER, item}}
    if not allow_returning:
        return 0, banned
    return _remove_tombstones(connection, {(subjects[user], item) for user, item in banned}), set()


def _remove_tombstones(connection: sa.Connection, pairs: set[tuple[str, str]]) -> int:
    graves = pairs | {(subject, _WHOLE_USER) for subject, _ in pairs}
    removed = 0
    for subject, item_id in sorted(graves):
        chosen = sa.and_(_tombstones.c.subject == subject, _tombstones.c.item_id == item_id)
        removed += connection.execute(sa.delete(_tombstones).where(chosen)).rowcount
    return removed


def _take_items(connection: sa.Connection, given: Mapping[str, Item]) -> tuple[int, int]:
    """How many were new, and how many had changed."""
    known = _items_where(connection, _items.c.item_id, given, lambda item: item.item_id)
    differing = [item for item in given.values() if known.get(item.item_id) != item]
    _upsert(connection, _items, [_item_row(item) for item in differing])
    new = sum(item.item_id not in known for item in differing)
    return new, len(differing) - new


def _item_row(item: Item) -> dict[str, Any]:
    genres = json.dumps(list(item.genres), ensure_ascii=False)
    return {"item_id": item.item_id, "title": item.title, "year": item.year, "genres": genres, "author": item.author}


def _check_items_known(
    connection: sa.Connection, given: Mapping[str, Item], interactions: Iterable[Interaction]
) -> None:
    missing = {row.item_id for row in interactions} - given.keys()
    unknown = missing - _items_where(connection, _items.c.item_id, missing, lambda item: item.item_id).keys()
    if unknown:
        raise ImportRefused(
            f"{len(unknown)} item ids of the interactions are neither among the given items nor in the ledger; "
            "import their items first or along with them"
        )


def _take_interactions(connection: sa.Connection, given: Sequence[Interaction]) -> tuple[int, int]:
    """How many were new, and how many had changed."""
    known: dict[tuple[str, str], tuple[bool, int]] = {}
    for chunk in _chunks({row.user_id for row in given}):
        for row in connection.execute(sa.select(_interactions).where(_interactions.c.user_id.in_(chunk))):
            known[row.user_id, row.item_id] = (row.liked, row.timestamp)
    differing = [row for row in given if known.get((row.user_id, row.item_id)) != (row.liked, row.timestamp)]
    _upsert(connection, _interactions, [asdict(row) for row in differing])
    new = sum((row.user_id, row.item_id) not in known for row in differing)
    return new, len(differing) - new


# Deletion


def _accept(connection: sa.Connection, wish: _Wish) -> ForgetRequest:
    exposures = connection.execute(sa.select(_exposures).where(_exposures.c.user_id == wish.user_id)).all()
    erased = _erase_interactions(connection, wish)
    open_requests = _requests(
        connection, _forget_requests.c.subject == wish.subject, _forget_requests.c.state.in_(OWED_STATES)
    )
    if wish.item_ids is None and not erased and not exposures:
        for earlier in open_requests:
            if earlier.scope == wish.scope:
                return earlier
    # While an earlier deletion is owed, a build may hold what the ledger no longer shows.
    held = bool(erased or open_requests or (exposures and wish.item_ids is None))
    request = _new_request(connection, wish, erased, exposures if held else (), held)
    _erase_derived(connection, wish)
    _bury(connection, wish, request.request_id)
    return request


def _new_request(
    connection: sa.Connection, wish: _Wish, erased: int, exposures: Sequence[_Row], held: bool
) -> ForgetRequest:
    now, fence = time.time(), int(_read_state(connection).fence)
    request = ForgetRequest(
        request_id=uuid.uuid4().hex,
        subject=wish.subject,
        scope=wish.scope,
        state="accepted" if held else "completed",
        fence=fence + 1 if held else fence,
        affected_shards=tuple(sorted(row.key for row in exposures if row.kind == "adapter")),
        erased_interactions=erased,
        masked_rows=sum(row.kind == "row" for row in exposures),
        accepted_at=now,
        completed_at=None if held else now,
    )
    row = asdict(request) | {"affected_shards": json.dumps(request.affected_shards)}
    connection.execute(sa.insert(_forget_requests), [row])
    _insert_new(connection, _masks, [_mask_row(seen.kind, seen.key, request.request_id) for seen in exposures])
    if held:
        _raise_revision(connection, fence=request.fence)
    return request


def _mask_row(kind: str, key: str, request_id: str) -> dict[str, str]:
    return {"kind": kind, "key": key, "request_id": request_id}


def _erase_interactions(connection: sa.Connection, wish: _Wish) -> int:
    mine = sa.delete(_interactions).where(_interactions.c.user_id == wish.user_id)
    if wish.item_ids is None:
        return connection.execute(mine).rowcount
    return sum(
        connection.execute(mine.where(_interactions.c.item_id.in_(chunk))).rowcount for chunk in _chunks(wish.item_ids)
    )


def _erase_derived(connection: sa.Connection, wish: _Wish) -> None:
    # A user who stays keeps their exposures: what has seen them still has, for their next request.
    derived = (_placements, _memberships, _exposures) if wish.item_ids is None else (_placements,)
    for table in derived:
        connection.execute(sa.delete(table).where(table.c.user_id == wish.user_id))


def _bury(connection: sa.Connection, wish: _Wish, request_id: str) -> None:
    graves = (_WHOLE_USER,) if wish.item_ids is None else sorted(wish.item_ids)
    rows = [{"subject": wish.subject, "item_id": grave, "request_id": request_id} for grave in graves]
    _upsert(connection, _tombstones, rows)


def _answer_again(connection: sa.Connection, known: _Row, content: str) -> ForgetRequest:
    if known.content_hash != content:
        raise IdempotencyConflict("this idempotency key was used before, for a different request; take a new key")
    return _one_request(connection, known.request_id)


def _one_request(connection: sa.Connection, request_id: str) -> ForgetRequest:
    found = _requests(connection, _forget_requests.c.request_id == request_id) if _is_storable(request_id) else []
    if not found:
        raise UnknownRequest("no forget request has this id")
    return found[0]


def _requests(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[ForgetRequest]:
    """The requests that meet all conditions, in the order in which they were accepted."""
    c = _forget_requests.c
    rows = connection.execute(sa.select(_forget_requests).where(*conditions).order_by(c.fence, c.accepted_at))
    return [
        ForgetRequest(**row | {"affected_shards": tuple(json.loads(row["affected_shards"]))})
        for row in map(dict, rows.mappings())
    ]

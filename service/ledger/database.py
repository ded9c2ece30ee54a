"""The database under the ledger: opening SQLite or PostgreSQL, the transactions on it, and erasing what rows left behind."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.errors import InvalidSetting, LedgerUnavailable
from service.ledger import tables
from service.ledger.connections import (
    BEGIN,
    check_encoding,
    is_missing_file,
    open_engine,
    place,
    unavailable,
)
from service.ledger.schema import NO_LEDGER, Schema, known_schema

BUSY_SECONDS = 5.0  # that a busy SQLite file is waited for

_HOLDING_USERS = (
    tables.interactions,
    tables.due,
    tables.arrivals,
    tables.events,
    tables.impressions,
    tables.shown_items,
    tables.placements,
    tables.changes,
    tables.memberships,
    tables.lineage,
    tables.masks,
    tables.audit_log,
    tables.artifact_keys,
)
_SCHEMA_LOCK = 0x1E74E  # PostgreSQL advisory lock held while tables are made
_PROBE_SECONDS = 0.3  # that a probe waits for writers: who is busy writing can be written to
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "57014")
# What to do where tables could not be made or altered, by PostgreSQL's SQLSTATE.
_ALTERING_ADVICE = {
    "42501": "this database user may not make or alter the ledger's tables, which this version of Lethe has to do once; run "
    "`lethe upgrade` with LETHE_DATABASE_URL naming the user who owns them",
    "55P03": "the ledger's tables stay in use by others, so that they cannot be upgraded; wait for builds and backups that are "
    "under way, and start again",
}


class Database:
    """An open database with the ledger's tables; safe to share among threads.

    Everything raises LedgerUnavailable when the database cannot be asked.
    """

    def __init__(
        self,
        at: str | Path,
        busy_seconds: float,
        schema: Schema | None = None,
        whole: bool = False,
        guard: Callable[[sa.Connection], None] = lambda _: None,
    ) -> None:
        """Open the database, with its tables made or brought up to `schema` (this version's).

        Without `whole`, an upgrade is refused that not every process may run at its start; with it, so is a database without a
        ledger. `guard` looks at the connection of every writing transaction first, and may refuse it by raising. Raises
        InvalidSetting, LedgerNewer.
        """
        self._busy_seconds = busy_seconds
        self._engine = open_engine(at, busy_seconds)
        self._sqlite = self._engine.dialect.name == "sqlite"
        self._guard = guard
        try:
            self._require_known_options()
            # The schema's version before (None: there was no ledger) and now.
            self.upgraded = self._bring_up(schema or known_schema(), whole)
        except LedgerUnavailable as error:  # whoever starts a process may know where the database should be
            self.close()
            raise type(error)(f"{error} {place(self._engine.url)}") from error.__cause__
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def read_transaction(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database throughout."""
        options = {BEGIN: "BEGIN"} if self._sqlite else {"isolation_level": "REPEATABLE READ"}
        with self._connection(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def write_transaction(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer runs beside. An exception in the block undoes it."""
        options = {BEGIN: "BEGIN IMMEDIATE"} if self._sqlite else {"isolation_level": "READ COMMITTED"}
        with self._connection(**options) as connection, connection.begin():
            oldest = sa.select(tables.state.c.oldest_schema)
            known_schema().check_still(connection.scalar(oldest if self._sqlite else oldest.with_for_update()))
            self._guard(connection)
            yield connection

    def require_writable(self) -> None:
        """Write a row as it is. Raises LedgerUnavailable if nothing can be written: read-only, or no room.

        Does not wait for other writers: while they are at it, there is room.
        """
        try:
            options = {BEGIN: "BEGIN IMMEDIATE"} if self._sqlite else {}
            with self._connection(**options) as connection, self._impatience(connection), connection.begin():
                if not self._sqlite:
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{1000 * _PROBE_SECONDS:.0f}ms'")
                self._guard(connection)
                connection.execute(sa.update(tables.state).values(id=tables.state.c.id))
        except LedgerUnavailable as error:
            if not any(code in str(error) for code in _BUSY):
                raise

    def erase_traces(self) -> None:
        """Overwrite what deleted rows left in the database's own files.

        SQLite: the file is rewritten (a page that was split keeps a stale copy of moved rows, which `secure_delete` does
        not see), and the write-ahead log is emptied; waits for long readers a while, then raises LedgerUnavailable.
        PostgreSQL: VACUUM, which frees the rows' space for reuse; WAL archives and backups are the operator's.
        """
        if self._sqlite:
            self._insist(_rewrite_file)
            self._insist(_empty_wal)
            return
        with self._outside_transactions() as connection:
            for table in _HOLDING_USERS:
                connection.exec_driver_sql(f"VACUUM {table.name}")

    def file(self) -> Path | None:
        """The file of an SQLite database."""
        name = self._engine.url.database
        return Path(name).absolute() if self._sqlite and name else None

    def image(self) -> bytes:
        """An SQLite file with the present rows, which never held any others. It is made in memory: no copy may lie about."""
        with self._outside_transactions() as connection, closing(sqlite3.connect(":memory:")) as copy:
            source = connection.connection.driver_connection
            if not isinstance(source, sqlite3.Connection):
                return b""  # a server's pages are not here to be compared
            source.backup(copy)
            copy.execute("VACUUM")
            return copy.serialize()

    @contextmanager
    def _connection(self, **options: Any) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect().execution_options(**options) as connection:
                yield connection
        except (DBAPIError, PoolTimeout) as error:
            # The text of a refused row quotes the row, so only errors of the connection are shown as the cause.
            cause = error if isinstance(error, (OperationalError, InterfaceError, PoolTimeout)) else None
            raise LedgerUnavailable(unavailable(error)) from cause

    @contextmanager
    def _outside_transactions(self) -> Iterator[sa.Connection]:
        options = {} if self._sqlite else {"isolation_level": "AUTOCOMMIT"}
        with self._connection(**options) as connection:
            yield connection

    def _require_known_options(self) -> None:
        """The first connection: only here can an option of the URL be refused by its name."""
        if self._sqlite:
            return
        try:
            with self._connection() as connection:
                check_encoding(connection)
        except LedgerUnavailable as error:
            if "ProgrammingError)" in str(error):
                named = ", ".join(sorted(self._engine.url.query)) or "none"
                raise InvalidSetting(
                    f"an option of the ledger's URL is not known, or has a value of another kind (given: {named}); see "
                    "PostgreSQL's documentation of connection parameters"
                ) from None
            raise

    @contextmanager
    def _impatience(self, connection: sa.Connection) -> Iterator[None]:
        """On SQLite, for a while: not to wait for other writers for long."""
        if not self._sqlite:
            yield
            return
        # Past SQLAlchemy, which would begin a transaction for it.
        cursor = connection.connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {1000 * _PROBE_SECONDS:.0f}")
        try:
            yield
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {1000 * self._busy_seconds:.0f}")
            cursor.close()

    def _bring_up(self, schema: Schema, whole: bool) -> tuple[str | None, str]:
        if self._sqlite:
            # Two processes that open a new file at once: SQLite refuses one of them without its busy timeout.
            self._insist(_use_wal)
        with self.read_transaction() as connection:
            if (version := schema.current(connection)) is not None:
                return version, version
        try:
            with self._altering() as connection:
                return schema.bring_up(connection, whole)
        except LedgerUnavailable as error:
            advice = next((advice for state, advice in _ALTERING_ADVICE.items() if state in str(error)), None)
            if advice is None:
                raise
            raise LedgerUnavailable(advice) from error

    @contextmanager
    def _altering(self) -> Iterator[sa.Connection]:
        with self._connection(**{BEGIN: "BEGIN IMMEDIATE"}) as connection, connection.begin():
            if not self._sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
                # A table that is altered waits for its readers, and all others behind it: not for longer than this.
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(1000 * self._busy_seconds)}")
            yield connection

    def _insist(self, attempt: Callable[[sa.Connection], bool]) -> None:
        deadline = time.monotonic() + self._busy_seconds
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


def upgrade_ledger(at: str | Path, busy_seconds: float = BUSY_SECONDS) -> tuple[str | None, str]:
    """Run every upgrade that the ledger at this URL or path lacks; the version of its schema before and now.

    Raises InvalidSetting (also if there is no ledger), LedgerNewer, LedgerUnavailable.
    """
    if is_missing_file(at):  # looked at before it is opened, which would make it
        raise InvalidSetting(NO_LEDGER)
    database = Database(at, busy_seconds, whole=True)
    database.close()
    return database.upgraded


def _use_wal(connection: sa.Connection) -> bool:
    return bool(connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar() == "wal")


def _rewrite_file(connection: sa.Connection) -> bool:
    connection.exec_driver_sql("VACUUM")
    return True


def _empty_wal(connection: sa.Connection) -> bool:
    busy, _pages, _moved = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    return not busy

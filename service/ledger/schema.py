"""The version of the ledger's schema: what it is, what is made new, what is upgraded, and what is refused.

The version is the id of an Alembic revision, kept in the ledger (`lethe_schema`). A new ledger is made as `tables` says and
stamped with the newest; one that names none is from before there were versions, and begins with the baseline.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.errors import InvalidSetting, LedgerNewer
from service.ledger import tables
from service.ledger.migrations import OLDEST_SCHEMA, VERSION_TABLE
from service.ledger.statements import insert_new

log = logging.getLogger(__name__)

MIGRATIONS = "service.ledger:migrations"  # where Alembic finds them, also within an installed package
_BASELINE = "0001"
_UNVERSIONED = "unversioned"
NO_LEDGER = (
    "there is no ledger here, so there is nothing to upgrade; give the --home (or LETHE_HOME, LETHE_DATABASE_URL) of one, "
    "or begin with `lethe import`"
)


class Schema:
    """The chain of revisions that this version of Lethe knows; `location` is Alembic's `script_location`."""

    def __init__(self, location: str = MIGRATIONS) -> None:
        self._config = Config()
        self._config.set_main_option("script_location", location.replace("%", "%%"))
        self._scripts = ScriptDirectory.from_config(self._config)
        self.newest = str(self._scripts.get_current_head())
        self._known = [str(script.revision) for script in self._scripts.walk_revisions()]  # the newest first

    def current(self, connection: sa.Connection) -> str | None:
        """The ledger's version, if nothing is to be made or upgraded; else None.

        Raises LedgerNewer if a later version of Lethe upgraded this ledger, and this one may not work with it.
        """
        version = read_version(connection)
        if version is None or version in self._known[1:]:
            return None
        if version != self.newest:
            self._check_may_work(connection, version)
        return version

    def bring_up(self, connection: sa.Connection, whole: bool) -> tuple[str | None, str]:
        """Make the ledger's tables, or upgrade them; the versions before (None: there was no ledger) and after.

        To be called in a transaction that no other of the kind runs beside. Without `whole`, only revisions that say that they
        are safe at any start are run; with it, a ledger has to be there.

        Raises:
            InvalidSetting: `lethe upgrade` has to be run first, or nothing upgrades these tables.
            LedgerNewer: a later version of Lethe upgraded this ledger, and this one may not work with it.
        """
        if (current := self.current(connection)) is not None:
            return current, current  # another process was faster
        version = read_version(connection)
        if version is None and not _has_tables(connection):
            if whole:
                raise InvalidSetting(NO_LEDGER)
            self._make(connection)
            _write_state(connection)
            return None, self.newest
        if version is None:
            self._check_baseline(connection)
        self._upgrade(connection, version, whole)
        _write_state(connection)
        return version or _UNVERSIONED, self.newest

    def check_still(self, oldest_schema: str | None) -> None:
        """Whether this process may go on, as a later version may have upgraded the ledger since it began.

        `oldest_schema` is what `state` says now. Raises LedgerNewer.
        """
        if oldest_schema is not None and oldest_schema not in self._known:
            raise LedgerNewer(
                "the ledger was upgraded by a later version of Lethe, beside which this one may not work; "
                "stop this process and start the later version"
            )

    def _make(self, connection: sa.Connection) -> None:
        tables.metadata.create_all(connection)
        _context(connection).stamp(self._scripts, self.newest)

    def _upgrade(self, connection: sa.Connection, version: str | None, whole: bool) -> None:
        pending = [*self._scripts.iterate_revisions(self.newest, version or "base")]
        if not whole and not all(getattr(script.module, "at_start", False) for script in pending):
            raise InvalidSetting(
                f"this ledger has schema {version or _UNVERSIONED}, and this version of Lethe wants {self.newest}; "
                "stop all processes that use it, make a backup, and run `lethe upgrade`"
            )
        self._config.attributes["connection"] = connection
        command.upgrade(self._config, "head")
        log.info("ledger_upgraded", extra={"fields": {"before": version or _UNVERSIONED, "after": self.newest}})

    def _check_may_work(self, connection: sa.Connection, version: str) -> None:
        oldest = connection.scalar(sa.select(tables.state.c.oldest_schema))
        if oldest is None or oldest in self._known:
            log.warning("ledger_newer", extra={"fields": {"schema": version, "known": self.newest}})
            return
        raise LedgerNewer(
            f"this ledger has schema {version}, made by a later version of Lethe; this one knows schemas up to {self.newest}. "
            "Start the later version, or restore a backup from before it was upgraded"
        )

    def _check_baseline(self, connection: sa.Connection) -> None:
        """A ledger without a version must be one of the last code that gave none; tables of it may be missing."""
        baseline: sa.MetaData = self._scripts.get_revision(_BASELINE).module.metadata
        inspector = sa.inspect(connection)
        for table in sorted(set(inspector.get_table_names()).intersection(baseline.tables)):
            found = {column["name"] for column in inspector.get_columns(table)}
            if found != {column.name for column in baseline.tables[table].c}:
                raise InvalidSetting(
                    f"this ledger was made by an early version of Lethe that nothing upgrades (its table {table} has other "
                    "columns); open it with that version, or import the data into a new ledger"
                )


@lru_cache(maxsize=1)
def known_schema() -> Schema:
    """The one of this version of Lethe, read once a process."""
    return Schema()


def read_version(connection: sa.Connection) -> str | None:
    """The ledger's version; None if it names none."""
    return _context(connection).get_current_revision()


def _context(connection: sa.Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})


def _has_tables(connection: sa.Connection) -> bool:
    return not set(sa.inspect(connection).get_table_names()).isdisjoint(tables.metadata.tables)


def _write_state(connection: sa.Connection) -> None:
    """The one row of `state`, if it is not there yet."""
    insert_new(connection, tables.state, [{"id": 1, "oldest_schema": OLDEST_SCHEMA}])

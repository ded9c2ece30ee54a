"""How SQLite and PostgreSQL are reached, and what to say when they are not.

An SQLite ledger is given by its path or by a URL. Of PostgreSQL's URL every option that libpq or psycopg know is passed on.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from service.errors import InvalidSetting, LedgerUnavailable

BEGIN = "ledger_begin"  # execution option: how SQLite opens the transaction

_CONNECT_SECONDS = 10  # for a server that never answers, unless the URL says otherwise
_OTHERS = 0o077  # permissions of group and others
_BESIDE = ("", "-wal", "-shm", "-journal")  # what SQLite writes beside its file
# Of psycopg's own options those that mean nothing in a URL, or would change what the ledger relies on.
_NOT_FOR_URLS = ("autocommit", "row_factory", "cursor_factory", "context")

# What a server or libpq says of a connection that failed, and what is to be done. The first that is found counts: they are told
# apart by their words, as libpq gives no code for a connection that never was.
_REFUSALS = (
    (r'database ".*" does not exist|no such database', "the server has no database of this name; create it with encoding UTF8"),
    (r"password authentication failed|no password supplied|SASL authentication failed|role \".*\" does not exist", (
        "the server rejects the user or the password; correct them"
    )),
    (r"no pg_hba.conf entry|not permitted to log in|permission denied for database", (
        "the server does not let this user in from here; see its pg_hba.conf and the user's rights"
    )),
    (r"resolve host|translate host name|nodename nor servname", "the host's name is not known; correct it"),
    (r"Connection refused|No such file or directory", "no server listens there; start it, or correct host and port"),
    (r"timeout|timed out|unreachable|No route to host", "the server does not answer; see the network between"),
    (r"too many (clients|connections)|connection slots", "the server has no connection left; raise its limit"),
    (r"starting up|shutting down|in recovery mode|not yet accepting", "the server is not ready; try again"),
    (r"unsupported startup parameter", "a pooler between refuses an option of the URL; leave that option out"),
    (r"invalid \w+ value|bad value for", "an option of its URL has a value that is not known; correct it"),
    (r"SSL|certificate", "no encrypted connection came about; see sslmode and the certificates"),
)  # fmt: skip
# SQLSTATEs of PostgreSQL and names of SQLite's errors (the beginning counts).
_CODES = (
    ("25006", "it answers reads only; let it be written to"),
    ("SQLITE_READONLY", "it answers reads only; make file and folder writable"),
    ("53100", "its disk is full; free some space"),
    ("SQLITE_FULL", "the disk is full; free some space"),
    ("SQLITE_IOERR", "the disk fails, or a limit on its use is reached; see the system's log"),
    ("SQLITE_CANTOPEN", "the file cannot be opened; see that it and its folder may be read and written"),
    ("SQLITE_NOTADB", "the file is no SQLite database; restore it from a backup"),
    ("SQLITE_CORRUPT", "the file is damaged; restore it from a backup"),
    ("42501", "its user may not do this; grant it CREATE on the schema and all rights on the tables"),
    ("3D000", _REFUSALS[0][1]),
    ("28", _REFUSALS[1][1]),
)

log = logging.getLogger(__name__)


def open_engine(at: str | Path, busy_seconds: float) -> sa.Engine:
    """An engine that connects when first used. `at` is an SQLite file, or a URL of SQLite or PostgreSQL.

    An SQLite file is its owner's alone: one that was not is closed to others, and the log says so.

    Raises:
        InvalidSetting: the URL is none, or names another kind of database or an option that cannot be taken.
        LedgerUnavailable: the folder of an SQLite file cannot be made or written.
    """
    url = _parsed(at)
    backend = url.get_backend_name()
    if backend == "sqlite":
        return _open_sqlite(url, busy_seconds)
    if backend in ("postgresql", "postgres"):
        return _open_postgres(url)
    raise InvalidSetting(f"the ledger lives in SQLite or PostgreSQL, not in {backend!r}")


def ledger_exists(at: str | Path) -> bool:
    """Whether there is a ledger already; nothing is made. Raises as `open_engine`, and LedgerUnavailable."""
    url = _parsed(at)
    if url.get_backend_name() == "sqlite":
        path = Path(str(url.database))
        return path.is_file() and path.stat().st_size > 0
    engine = open_engine(at, 0)
    try:
        return sa.inspect(engine).has_table("state")
    except DBAPIError as error:
        raise LedgerUnavailable(f"{unavailable(error)} {place(engine.url)}") from None
    finally:
        engine.dispose()


def is_missing_file(at: str | Path) -> bool:
    """Whether this is an SQLite file that is not there. Raises InvalidSetting for a URL that is none."""
    url = _parsed(at)
    return url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file()


def check_encoding(connection: sa.Connection) -> None:
    """Raises InvalidSetting for a PostgreSQL database that cannot hold every text."""
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if encoding != "UTF8":
        name = connection.exec_driver_sql("SELECT current_database()").scalar()
        raise InvalidSetting(
            f"the PostgreSQL database {name!r} has the encoding {encoding}, which cannot hold every id and title; expected "
            "UTF8: make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name it in LETHE_DATABASE_URL"
        )


def unavailable(error: Exception) -> str:
    """What to tell of an error of the database, and what to do: its kind and code, never its text, which may quote a row."""
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None) or ""
    word = f"{type(original or error).__name__} {code}".strip()
    advice = _advice(code, str(original))
    return f"the ledger's database cannot be asked ({word})" + (f": {advice}" if advice else "")


def place(url: sa.URL) -> str:
    """Where the database should be, without user, password and options."""
    if url.get_backend_name() == "sqlite":
        return f"[{url.database}]"
    host = url.host or str(url.query.get("host", "local socket"))
    return f"[{host}{f':{url.port}' if url.port else ''}, database {url.database!r}]"


def _advice(code: str, text: str) -> str | None:
    if code:
        return next((advice for beginning, advice in _CODES if code.startswith(beginning)), None)
    return next((advice for words, advice in _REFUSALS if re.search(words, text)), None)


def _parsed(at: str | Path) -> sa.URL:
    if isinstance(at, Path):
        return sa.URL.create("sqlite", database=str(at))
    try:
        url = sa.make_url(at)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise InvalidSetting("the ledger's URL cannot be read; expected sqlite:///file or postgresql://…") from error
    if backend == "sqlite" and "?" in at:
        raise InvalidSetting(
            "the ledger's SQLite URL holds a '?', which would begin options, and there are none; for a folder whose name holds "
            "one set LETHE_HOME and leave LETHE_DATABASE_URL out"
        )
    return url


def _open_postgres(url: sa.URL) -> sa.Engine:
    options = dict(url.query)
    if refused := sorted(set(_NOT_FOR_URLS) & options.keys()):
        raise InvalidSetting(f"the ledger's URL may not say {refused[0]}; leave it out")
    given: dict[str, Any] = {"client_encoding": "utf8"}
    if "connect_timeout" not in options:
        given["connect_timeout"] = _CONNECT_SECONDS
    if "prepare_threshold" in options:
        given["prepare_threshold"] = _prepare_threshold(str(options.pop("prepare_threshold")))
    url = url.set(drivername="postgresql+psycopg", query=options)
    return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=given)


def _prepare_threshold(text: str) -> int | None:
    """How often a statement is run before it is prepared on the server; None: it never is.

    0 means never, as in the drivers of other languages (psycopg would prepare at the first run, and nobody asks for that): a
    pooler that gives each transaction another connection knows no statement that was prepared on an earlier one.
    """
    if text.lower() in ("none", "0"):
        return None
    if text.isdecimal():
        return int(text)
    raise InvalidSetting(f"prepare_threshold in the ledger's URL is {text!r}; expected a number, 0 or none for never")


def _open_sqlite(url: sa.URL, busy_seconds: float) -> sa.Engine:
    if url.database in (None, "", ":memory:"):
        raise InvalidSetting("the ledger needs a file: deletions owed must outlive the process")
    _make_private(Path(str(url.database)))
    engine = sa.create_engine(
        url.set(drivername="sqlite"), hide_parameters=True, connect_args={"timeout": busy_seconds}
    )
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_private(path: Path) -> None:
    """Make the file, or close it and what SQLite wrote beside it to other users."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives what it writes beside the file the file's own mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for beside in map(path.with_name, (path.name + end for end in _BESIDE)):
            if beside.exists() and beside.stat().st_mode & _OTHERS:
                mode = stat.S_IMODE(beside.stat().st_mode)
                beside.chmod(mode & ~_OTHERS)
                log.warning(
                    "the ledger's file %s was open to other users (mode %o); it is closed now", beside.name, mode
                )
    except OSError as error:
        raise LedgerUnavailable(
            f"the ledger's file {path} cannot be made, written or closed to other users ({type(error).__name__}); "
            "give it and its folder to the user that runs this process"
        ) from error


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver must not open transactions by itself: `_begin_sqlite` says which kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("foreign_keys=ON", "secure_delete=ON", "synchronous=FULL", "temp_store=MEMORY"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    statement = connection.get_execution_options().get(BEGIN)
    if statement is not None:
        connection.exec_driver_sql(statement)

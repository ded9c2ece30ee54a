"""Wherever the ledger should be: it is there, or the error says which of the many things it is that is wrong."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import sqlalchemy as sa

from service.config import load_settings
from service.errors import InvalidSetting, LedgerUnavailable
from service.ledger import Ledger, ledger_exists
from service.ledger.connections import open_engine, place, unavailable
from service.records import Interaction, Item

SECRET = b"a secret of the tests"
ITEMS = [Item("i", "Title")]
NAMES = (
    "what?",
    "50%",
    "50%25",
    "a#b",
    "two words",
    " blanks ",
    "Домой",
    "家",
    "q?mode=memory",
    "a;b&c=d",
    "'\"",
    ":memory:",
    "é",
)
Databases = Callable[[], AbstractContextManager[str]]


@pytest.mark.parametrize("name", NAMES)
def test_a_home_folder_of_any_name_holds_its_ledger(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    settings = load_settings(home=home)
    assert not ledger_exists(settings.ledger_at())
    with Ledger(settings.ledger_at(), SECRET) as ledger:
        ledger.import_data(ITEMS, [Interaction("ann", "i", True, 1)], "movie")
    assert ledger_exists(settings.ledger_at())
    assert (home / "ledger.sqlite").stat().st_size > 0
    assert list(tmp_path.iterdir()) == [home]
    with sqlite3.connect(home / "ledger.sqlite") as connection:
        assert connection.execute("SELECT user_id FROM interactions").fetchall() == [("ann",)]
    connection.close()


def test_a_child_process_reads_the_same_home(tmp_path: Path) -> None:
    for name in NAMES:
        assert load_settings(home=tmp_path / name).environment()["LETHE_HOME"] == str(tmp_path / name)


def test_an_sqlite_url_with_options_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="LETHE_HOME"):
        Ledger(f"sqlite:///{tmp_path}/what?ledger.sqlite", SECRET)
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_an_sqlite_file_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "folder.sqlite").mkdir()
    (tmp_path / "text.sqlite").write_bytes(b"this is not a database" * 100)
    (tmp_path / "file").touch()
    for path, told in (
        (tmp_path / "folder.sqlite", "cannot be made, written or closed"),
        (tmp_path / "text.sqlite", "is no SQLite database"),
        (tmp_path / "file" / "ledger.sqlite", "cannot be made, written or closed"),
    ):
        with pytest.raises(LedgerUnavailable, match=told) as refused:
            Ledger(path, SECRET)
        assert str(path) in str(refused.value)


# PostgreSQL


def refusal(url: str) -> str:
    with pytest.raises((LedgerUnavailable, InvalidSetting)) as refused:
        Ledger(url, SECRET)
    assert "hunter2" not in str(refused.value)
    return str(refused.value)


def test_a_server_that_is_not_there_a_database_that_is_not_and_a_user_that_is_not_are_told_apart(
    postgres_url: str,
) -> None:
    nowhere = refusal("postgresql://lethe:hunter2@127.0.0.1:1/lethe")
    assert "no server listens there" in nowhere
    assert "[127.0.0.1:1, database 'lethe']" in nowhere
    assert "host's name is not known" in refusal("postgresql://lethe:hunter2@no.such.host.invalid/lethe")
    assert "no database of this name" in refusal(postgres_url.replace("/postgres?", "/nothing?"))
    assert "rejects the user or the password" in refusal(postgres_url.replace("postgres:@", "nobody:hunter2@"))


@pytest.mark.thorough
def test_a_server_that_says_nothing_is_not_waited_for_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "does not answer" in refusal(f"postgresql://lethe@127.0.0.1:{port}/lethe?connect_timeout=2")


# What servers say that no test starts: connection errors have no code, only words.
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('FATAL:  password authentication failed for user "lethe"', "rejects the user or the password"),
        ("fe_sendauth: no password supplied", "rejects the user or the password"),
        ("FATAL:  SASL authentication failed", "rejects the user or the password"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u", database "d"', "pg_hba.conf"),
        ("FATAL:  sorry, too many clients already", "no connection left"),
        ("FATAL:  remaining connection slots are reserved", "no connection left"),
        ("FATAL:  the database system is starting up", "not ready"),
        ("ERROR:  no such database: lethe", "no database of this name"),
        ("FATAL:  unsupported startup parameter: options", "leave that option out"),
        ("connection timeout expired", "does not answer"),
        ('invalid sslmode value: "x"', "value that is not known"),
        ("SSL error: certificate verify failed", "certificates"),
        ("something new", "(OperationalError)"),
    ],
)
def test_the_words_of_a_refused_connection_are_told_apart(said: str, told: str) -> None:
    error = sa.exc.OperationalError("SELECT", {}, psycopg.OperationalError(f"connection failed: {said}"))
    assert told in unavailable(error)
    assert said not in unavailable(error)


def test_a_database_that_cannot_hold_every_text_is_refused_by_name(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for encoding in ("LATIN1", "SQL_ASCII"):
            name = f"in_{encoding.lower()}"
            connection.execute(
                f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
            )
            try:
                said = refusal(postgres_url.replace("/postgres?", f"/{name}?"))
                assert f"'{name}' has the encoding {encoding}" in said
                assert "expected UTF8" in said
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_options_of_libpq_and_psycopg_pass(new_database: Databases) -> None:
    with new_database() as url:
        options = quote("-c search_path=lethe -c default_text_search_config=english", safe="")
        asked = f"{url}&application_name=a%20name&options={options}&connect_timeout=5&prepare_threshold=3"
        asked += "&client_encoding=latin1"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA lethe")
        with Ledger(asked, SECRET) as ledger:
            ledger.import_data([Item("i", "Les Misérables 家")], [], "movie")  # whatever encoding the client asks for
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT title FROM lethe.items").fetchall() == [("Les Misérables 家",)]
        engine = open_engine(asked, 5)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW application_name").scalar() == "a name"
            assert connection.connection.dbapi_connection.prepare_threshold == 3  # type: ignore[union-attr] # psycopg's own
        engine.dispose()


@pytest.mark.parametrize("threshold", ["0", "none", "None"])
def test_statements_are_not_prepared_where_the_url_says_so(postgres_url: str, threshold: str) -> None:
    engine = open_engine(f"{postgres_url}&prepare_threshold={threshold}", 5)
    with engine.connect() as connection:
        assert connection.connection.dbapi_connection.prepare_threshold is None  # type: ignore[union-attr] # psycopg's own
    engine.dispose()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("sllmode=require", "given: host, sllmode"),
        ("connect_timeout=soon", "given: connect_timeout, host"),
        ("sslmode=perhaps", "value that is not known"),
        ("prepare_threshold=many", "prepare_threshold"),
        ("prepare_threshold=-1", "prepare_threshold"),
        ("autocommit=1", "may not say autocommit"),
        ("row_factory=x", "may not say row_factory"),
    ],
)
def test_an_option_that_cannot_be_taken_is_named(postgres_url: str, option: str, told: str) -> None:
    assert told in refusal(f"{postgres_url}&{option}")


def test_a_place_is_told_without_user_password_and_options() -> None:
    told = place(sa.make_url("postgresql://ann:hunter2@db:5432/lethe?sslpassword=hunter2"))
    assert told == "[db:5432, database 'lethe']"


# PgBouncer


@contextmanager
def pgbouncer(postgres_url: str, folder: Path, password: str | None = None) -> Iterator[str]:
    """A URL through a PgBouncer that gives every transaction another connection, over the databases of this server."""
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if binary is None:
        pytest.skip("no pgbouncer on PATH (Debian: apt-get install pgbouncer)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = sa.make_url(postgres_url).query["host"]
    (folder / "users.txt").write_text(f'"postgres" "{password or ""}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={host} port=5432 user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = {'plain' if password else 'trust'}\nauth_file = {folder}/users.txt\n"
        "pool_mode = transaction\ndefault_pool_size = 3\nserver_round_robin = 1\n"
        f"logfile = {folder}/log\npidfile = {folder}/pid\n"
    )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o777)
    command = [binary, str(folder / "pgbouncer.ini")]
    # It does not run as root; and only the server's own user may use the server's socket here.
    everything = [*_as_owner_of(Path(str(host))), *command]
    with subprocess.Popen(everything, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            _wait_for(port)
            yield f"postgresql://postgres:{password or ''}@127.0.0.1:{port}/{sa.make_url(postgres_url).database}"
        finally:
            running.terminate()


def test_the_ledger_works_behind_a_pgbouncer_that_pools_transactions(
    new_database: Databases, bouncer_folder: Path
) -> None:
    rows = [Interaction(f"u{number}", "i", True, number) for number in range(20)]
    with new_database() as direct, pgbouncer(direct, bouncer_folder) as url:
        with Ledger(f"{url}?prepare_threshold=0", SECRET) as one, Ledger(f"{url}?prepare_threshold=0", SECRET) as two:
            one.import_data(ITEMS, rows, "movie")
            for number in range(10):  # more often than after which psycopg would prepare
                (one, two)[number % 2].forget(f"u{number}", None, None)
                assert one.mask().fence == two.mask().fence == number + 1
            two.require_writable()
            one.erase_traces()
            assert two.counts().interactions == 10
        with Ledger(direct, SECRET) as ledger:
            assert ledger.counts().interactions == 10
        assert "no database of this name" in refusal(url.rpartition("/")[0] + "/nothing?prepare_threshold=0")


def test_a_pgbouncer_that_rejects_the_password_says_so(postgres_url: str, bouncer_folder: Path) -> None:
    with pgbouncer(postgres_url, bouncer_folder, password="right") as url:
        assert "rejects the user or the password" in refusal(url.replace(":right@", ":hunter2@"))


@pytest.fixture
def bouncer_folder() -> Iterator[Path]:
    # Not pytest's own, which nobody but this user may enter.
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _as_owner_of(folder: Path) -> list[str]:
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("pgbouncer does not run as root, and there is no setpriv to run it as somebody else")
    owner = folder.stat()
    return [setpriv, f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("pgbouncer did not start within 10 s")

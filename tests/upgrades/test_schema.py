"""The versions of the ledger's schema: the chain of revisions, the stamp, and who may work with what."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from service.errors import InvalidSetting, LedgerNewer, LedgerUnavailable
from service.ledger import (
    Ledger,
    migrations,
    tables,
    upgrade_ledger,
)
from service.ledger.database import Database
from service.ledger.migrations import VERSION_TABLE, versions
from service.ledger.migrations.versions import r0001_baseline
from service.ledger.schema import Schema, known_schema
from service.records import Interaction, Item
from tests.upgrades.conftest import connected

SECRET = b"a secret of the tests"
NOW = known_schema().newest
ITEM = Item("1", "Film (1999)", 1999, ("Drama",))

Later = Callable[..., Schema]


def described(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Table -> its columns (name, type, whether null is allowed), its indexes, its key."""
    with connected(url) as connection:
        inspector = sa.inspect(connection)
        return {table: _described(inspector, table) for table in inspector.get_table_names()}


def _described(inspector: sa.Inspector, table: str) -> list[tuple[object, ...]]:
    columns = [(column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)]
    indexes = [(index["name"], *index["column_names"]) for index in inspector.get_indexes(table)]
    return [*sorted(columns), *sorted(indexes), tuple(inspector.get_pk_constraint(table)["constrained_columns"])]


def open_baseline(url: str) -> None:
    with connected(url) as connection:
        r0001_baseline.metadata.create_all(connection)


@pytest.fixture
def later(tmp_path: Path) -> Later:
    """A function: what its revision does (a line of Python), whether at a start -> the schema of a version after this one."""

    def made(does: str, at_start: bool = True) -> Schema:
        folder = tmp_path / "later version"
        shutil.copytree(Path(migrations.__file__).parent, folder)
        (folder / "versions" / "r9999_later.py").write_text(
            "from alembic import op\nimport sqlalchemy as sa\n"
            f"revision, down_revision, at_start = '9999', '{NOW}', {at_start}\n"
            f"def upgrade():\n    {does}\n"
        )
        return Schema(str(folder))

    return made


def open_as(schema: Schema, url: str, whole: bool = False) -> tuple[str | None, str]:
    database = Database(url, 5.0, schema, whole)
    database.close()
    return database.upgraded


# This version


def test_a_new_ledger_has_the_newest_schema(url: str) -> None:
    Ledger(url, SECRET).close()
    assert upgrade_ledger(url) == (NOW, NOW)


def test_where_no_ledger_is_none_is_made_by_an_upgrade(url: str) -> None:
    with pytest.raises(InvalidSetting, match="there is no ledger here"):
        upgrade_ledger(url)
    assert described(url) == {}


def test_revisions_lead_from_the_baseline_to_the_tables_of_today(url: str) -> None:
    open_baseline(url)
    assert upgrade_ledger(url) == ("unversioned", NOW)
    upgraded = described(url)
    with connected(url) as connection:
        options = {"version_table": VERSION_TABLE, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata) == []
        for table in (*tables.metadata.tables, VERSION_TABLE):
            connection.exec_driver_sql(f"DROP TABLE {table} {'CASCADE' if 'postgres' in url else ''}")
    Ledger(url, SECRET).close()
    assert described(url) == upgraded


def test_beside_a_new_ledger_the_versions_may_work_that_may_beside_an_upgraded_one(url: str, tmp_path: Path) -> None:
    oldest = []
    for begin in (open_baseline, lambda at: None):
        with connected(url) as connection:
            for table in sa.inspect(connection).get_table_names():
                connection.exec_driver_sql(f"DROP TABLE {table} {'CASCADE' if 'postgres' in url else ''}")
        begin(url)
        Ledger(url, SECRET).close()
        with connected(url) as connection:
            oldest.append(connection.exec_driver_sql("SELECT oldest_schema FROM state").scalar_one())
    assert oldest[0] == oldest[1] is not None


def test_every_revision_has_its_number_and_says_when_it_may_run() -> None:
    folder = Path(migrations.__file__).parent / "versions"
    revisions = [importlib.import_module(f"{versions.__name__}.{path.stem}") for path in sorted(folder.glob("r*.py"))]
    assert [revision.revision for revision in revisions] == [f"{at:04}" for at in range(1, len(revisions) + 1)]
    assert [revision.down_revision for revision in revisions[1:]] == [one.revision for one in revisions[:-1]]
    assert all(isinstance(revision.at_start, bool) for revision in revisions)


def test_tables_that_an_earlier_code_lacked_are_made(url: str) -> None:
    open_baseline(url)
    with connected(url) as connection:
        for table in ("changes", "memberships"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    assert upgrade_ledger(url) == ("unversioned", NOW)
    assert {"changes", "memberships"} <= described(url).keys()


def test_many_that_open_an_old_ledger_at_once_upgrade_it_once(url: str) -> None:
    open_baseline(url)
    with ThreadPoolExecutor(6) as threads:
        opened = list(threads.map(lambda _: open_as(known_schema(), url), range(6)))
    assert sorted(opened) == [(NOW, NOW)] * 5 + [("unversioned", NOW)]


def test_another_application_may_keep_its_own_versions_in_the_same_database(url: str) -> None:
    with connected(url) as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('theirs')")
    Ledger(url, SECRET).close()
    assert upgrade_ledger(url) == (NOW, NOW)


def test_an_old_ledger_that_others_read_is_not_waited_for_without_end(url: str) -> None:
    if not url.startswith("postgres"):
        pytest.skip("SQLite alters a table beside its readers")
    open_baseline(url)
    with connected(url) as reader:
        reader.exec_driver_sql("SELECT * FROM tombstones").all()
        with pytest.raises(LedgerUnavailable, match="stay in use by others"):
            Ledger(url, SECRET, busy_seconds=0.2)
    Ledger(url, SECRET, busy_seconds=0.2).close()


def test_a_user_who_may_not_alter_tables_is_told_who_has_to(url: str) -> None:
    if not url.startswith("postgres"):
        pytest.skip("SQLite knows no users")
    open_baseline(url)
    user = url.rpartition("/")[2].partition("?")[0].replace("test_", "user_")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN")
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}")
    with pytest.raises(LedgerUnavailable, match="run `lethe upgrade` with LETHE_DATABASE_URL naming the user who owns"):
        Ledger(url.replace("//postgres:", f"//{user}:"), SECRET)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {user}")
        connection.execute(f"DROP ROLE {user}")


# A version before this one, and one after it


def test_what_the_version_before_writes_beside_this_one_is_taken(url: str) -> None:
    """Its statements name the columns that it knows; it was running when this version upgraded the ledger."""
    open_baseline(url)
    old = r0001_baseline.metadata.tables
    with Ledger(url, SECRET) as ledger, connected(url) as connection:
        connection.execute(sa.insert(old["items"]).values(item_id="1", title="Film", year=None, genres="[]"))
        connection.execute(sa.insert(old["interactions"]).values(user_id="ann", item_id="1", liked=True, timestamp=1))
        stone = {"subject": ledger.subject("bob"), "grave": "", "request_id": "r", "fence": 0}
        connection.execute(sa.insert(old["tombstones"]).values(**stone))
        connection.commit()
        assert [opinion.item.title for opinion in ledger.history("ann", 5)] == ["Film"]
        assert [stone.request_id for stone in ledger.tombstones()] == ["r"]
        assert ledger.import_data([ITEM], [Interaction("bob", "1", True, 1)], None).tombstoned == 1


def test_beside_a_later_version_that_only_added_this_one_works_and_says_so(
    url: str, later: Later, caplog: pytest.LogCaptureFixture
) -> None:
    with Ledger(url, SECRET) as running:
        running.import_data([ITEM], [Interaction("ann", "1", True, 1)], "movie")
        assert open_as(later("op.add_column('items', sa.Column('color', sa.Text))"), url) == (NOW, "9999")
        assert running.forget("ann", None, None).request.erased_interactions == 1
    with Ledger(url, SECRET) as started:
        assert started.counts().items == 1
    assert "ledger_newer" in caplog.messages
    assert upgrade_ledger(url) == ("9999", "9999")  # nothing of the later version is undone


def test_beside_a_later_version_that_allows_it_no_more_this_one_says_why_not(url: str, later: Later) -> None:
    with Ledger(url, SECRET) as running:
        running.import_data([ITEM], [Interaction("ann", "1", True, 1)], "movie")
        open_as(later("op.execute(\"UPDATE state SET oldest_schema = '9999'\")"), url)
        for ask in (
            running.mask,
            lambda: running.forget("ann", None, None).request,
            lambda: running.set_shards_training(1),
        ):
            with pytest.raises(LedgerNewer, match="stop this process and start the later version"):
                ask()
    with pytest.raises(LedgerNewer, match=rf"has schema 9999, made by a later version.*up to {NOW}"):
        Ledger(url, SECRET)
    with pytest.raises(LedgerNewer, match="restore a backup"):
        upgrade_ledger(url)
    with connected(url) as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM interactions").scalar() == 1


def test_an_upgrade_that_is_not_safe_at_a_start_waits_for_the_command(url: str, later: Later) -> None:
    Ledger(url, SECRET).close()
    schema = later("op.drop_column('items', 'created')", at_start=False)
    with pytest.raises(InvalidSetting, match=rf"has schema {NOW}.*wants 9999; stop all .* run `lethe upgrade`"):
        open_as(schema, url)
    assert upgrade_ledger(url) == (NOW, NOW)
    assert open_as(schema, url, whole=True) == (NOW, "9999")


@pytest.mark.thorough
def test_an_upgrade_that_fails_leaves_the_ledger_as_it_was(url: str, later: Later) -> None:
    Ledger(url, SECRET).close()
    before = described(url)
    with pytest.raises(ZeroDivisionError):
        open_as(later("op.drop_column('items', 'created'); 1 / 0"), url)
    assert described(url) == before
    assert upgrade_ledger(url) == (NOW, NOW)

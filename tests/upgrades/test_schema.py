"""The versions of the ledger's schema: the chain of revisions, the stamp, and who may work with what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from service.data.ledger import tables, upgrade_ledger
from service.data.ledger.migrations import VERSION_TABLE
from service.data.ledger.migrations.versions import r0001_baseline
from service.data.ledger.schema import known_schema


@pytest.fixture(params=["sqlite", "postgresql"])
def url(
    request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[], AbstractContextManager[str]]
) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.sqlite'}"
        return
    with new_database() as opened:
        yield opened


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def described(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Table -> its columns (name, type, whether null is allowed), its indexes, its key."""
    with connected(url) as connection:
        inspector = sa.inspect(connection)
        return {table: _described(inspector, table) for table in inspector.get_table_names()}


def _described(inspector: sa.Inspector, table: str) -> list[tuple[object, ...]]:
    columns = [(column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)]
    indexes = [(index["name"], *index["column_names"]) for index in inspector.get_indexes(table)]
    return [*sorted(columns), *sorted(indexes), tuple(inspector.get_pk_constraint(table)["constrained_columns"])]


def test_a_new_ledger_has_the_newest_schema(url: str) -> None:
    assert upgrade_ledger(url) == (None, known_schema().newest)
    assert upgrade_ledger(url) == (known_schema().newest, known_schema().newest)


def test_revisions_lead_from_the_baseline_to_the_tables_of_today(url: str) -> None:
    with connected(url) as connection:
        r0001_baseline.metadata.create_all(connection)
    assert upgrade_ledger(url) == ("unversioned", known_schema().newest)
    upgraded = described(url)
    with connected(url) as connection:
        options = {"version_table": VERSION_TABLE, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata) == []
        for table in (*tables.metadata.tables, VERSION_TABLE):
            connection.exec_driver_sql(f"DROP TABLE {table} {'CASCADE' if 'postgres' in url else ''}")
    assert upgrade_ledger(url) == (None, known_schema().newest)
    assert described(url) == upgraded

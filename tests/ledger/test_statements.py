"""What both databases are asked in one form: pairs of a key, by the index and in any spelling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.ledger import Ledger, tables
from service.ledger.database import Database
from service.ledger.statements import pairs_among, upsert
from service.records import Item

ODD = ['"', "'", "\\", "[1]", "{a,b}", "NULL", "Jose\u0301", "𝕏", "a\nb", "$[0]", ","]


@pytest.fixture(params=["sqlite", "postgres"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Connection]:
    """Rows of odd people with odd items, each with each."""
    if request.param == "sqlite":
        yield from _filled(f"sqlite:///{tmp_path}/ledger.db")
        return
    with request.getfixturevalue("new_database")() as url:
        yield from _filled(url)


def _filled(url: str) -> Iterator[sa.Connection]:
    with Ledger(url, b"a secret of the tests") as ledger:
        ledger.import_data([Item(odd, "Film") for odd in ODD], [], "movie")
    database = Database(url, 5.0)
    with database.write_transaction() as opened:
        held = sorted(opened.scalars(sa.select(tables.items.c.item_id)))
        rows = [{"user_id": one, "item_id": item, "liked": True, "timestamp": 1} for one in ODD for item in held]
        upsert(opened, tables.arrivals, rows)
        yield opened
    database.close()


def test_pairs_are_found_in_any_spelling_and_no_others(connection: sa.Connection) -> None:
    c = tables.arrivals.c
    held = sorted(connection.scalars(sa.select(tables.items.c.item_id)))
    pairs = list(zip(ODD, [*held[3:], *held[:3]], strict=True))
    asked = [*pairs, ("nobody", held[0]), (ODD[0], "nothing")]
    found = connection.execute(
        sa.select(c.user_id, c.item_id).where(pairs_among(connection, c.user_id, c.item_id, asked))
    )
    assert {tuple(row) for row in found} == set(pairs)
    many = [(f"person-{n}", held[0]) for n in range(40_000)] + pairs
    found = connection.execute(
        sa.select(c.user_id, c.item_id).where(pairs_among(connection, c.user_id, c.item_id, many))
    )
    assert {tuple(row) for row in found} == set(pairs)


def test_sqlite_finds_them_by_the_key(tmp_path: Path) -> None:
    c = tables.arrivals.c
    for connection in _filled(f"sqlite:///{tmp_path}/ledger.db"):
        query = sa.select(c.liked).where(pairs_among(connection, c.user_id, c.item_id, [("a", "b"), ("c", "d")]))
        told = query.compile(connection, compile_kwargs={"render_postcompile": True})
        given = tuple(told.params[name] for name in told.positiontup or ())
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {told}", given).all()
        assert any("SEARCH arrivals USING PRIMARY KEY (user_id=? AND item_id=?)" in row[-1] for row in plan), plan

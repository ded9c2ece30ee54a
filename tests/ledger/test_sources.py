"""The source of a row: it goes where the row goes, says where it came from, and decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import ImportRefused
from service.ledger import Event, EventOutcome, Ledger, RowSelection
from service.records import Correction, Interaction, Item

SECRET = b"a secret of the tests"
ITEMS = [Item(f"i{n}", f"Title {n} (1999)") for n in range(6)]


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """Ann's first two rows are of a file, the next of a client, which sends one more beyond the horizon; Bob's of none."""
    if request.param == "sqlite":
        with Ledger(f"sqlite:///{tmp_path}/ledger.db", SECRET) as opened:
            yield filled(opened)
        return
    with request.getfixturevalue("new_database")() as url, Ledger(url, SECRET) as opened:
        yield filled(opened)


@pytest.fixture
def light(tmp_path: Path) -> Iterator[Ledger]:
    """On SQLite, for what does not depend on the database."""
    with Ledger(f"sqlite:///{tmp_path}/ledger.db", SECRET) as opened:
        yield filled(opened)


def filled(ledger: Ledger) -> Ledger:
    ledger.import_data(ITEMS, [row("ann", 0), row("ann", 1)], "movie", source="file-1")
    ledger.import_data([], [row("bob", 0)], None)
    assert ledger.take_events([Event(row("ann", 2, source="shop"))]) == [EventOutcome.NEW]
    ledger.advance_horizon()
    ledger.take_events([Event(row("ann", 3, source="shop"))])
    return ledger


def row(user: str, number: int, time: int | None = None, source: str | None = None) -> Interaction:
    return Interaction(user, f"i{number}", True, 1_000 + number if time is None else time, None, source)


def sources(ledger: Ledger, user: str = "ann") -> dict[str, str | None]:
    return {held.item_id: held.source for held in ledger.export(user).rows}


def selected(ledger: Ledger, *names: str) -> dict[str, tuple[str, ...]]:
    return dict(ledger.select_rows(RowSelection(sources=names), 10).by_user)


EVERYWHERE = {"i0": "file-1", "i1": "file-1", "i2": "shop", "i3": "shop"}


def test_a_row_says_where_it_came_from_on_both_sides_of_the_horizon(ledger: Ledger) -> None:
    assert sources(ledger) == EVERYWHERE
    assert sources(ledger, "bob") == {"i0": None}
    assert selected(ledger, "shop") == {"ann": ("i2", "i3")}
    assert selected(ledger, "shop", "file-1") == {"ann": ("i0", "i1", "i2", "i3")}
    ledger.advance_horizon()
    assert sources(ledger) == EVERYWHERE


def test_it_goes_aside_with_a_restriction_and_comes_back(ledger: Ledger) -> None:
    ledger.restraints.restrict("ann", "objection")
    assert sources(ledger) == EVERYWHERE
    assert selected(ledger, "shop") == {"ann": ("i2", "i3")}
    ledger.advance_horizon()
    ledger.restraints.lift_restriction("ann")
    assert sources(ledger) == EVERYWHERE


def test_a_newer_row_brings_its_own_and_the_same_again_changes_nothing(ledger: Ledger) -> None:
    assert ledger.take_events([Event(row("ann", 2, source="other"))]) == [EventOutcome.UNCHANGED]
    ledger.import_data([], [row("ann", 0)], None, source="other")
    assert sources(ledger) == EVERYWHERE
    assert ledger.take_events([Event(row("ann", 2, 2_000))]) == [EventOutcome.CHANGED]
    ledger.import_data([], [row("ann", 0, 2_000)], None, source="other")
    assert sources(ledger) == {**EVERYWHERE, "i2": None, "i0": "other"}


def test_what_a_person_says_instead_came_from_no_source(light: Ledger) -> None:
    light.rectify("ann", Correction("i2", False), None)
    assert sources(light) == {**EVERYWHERE, "i2": None}


def test_nothing_that_is_built_knows_of_it(tmp_path: Path, light: Ledger) -> None:
    with Ledger(f"sqlite:///{tmp_path}/other.db", SECRET) as other:
        other.import_data(ITEMS, [row("ann", 0), row("ann", 1), row("ann", 2), row("bob", 0)], "movie")
        assert light.view().interactions == other.view().interactions
    assert {held.source for rows in light.view().interactions.values() for held in rows} == {None}


def test_a_label_that_is_somebodys_id_is_no_remains_of_them(light: Ledger) -> None:
    light.take_events([Event(row("bob", 4, source="canary-of-ann"))])
    assert light.search("canary-of-ann").found == {}


@pytest.mark.parametrize("label", ["", "two words", "../etc", "x" * 65, "a\n"])
def test_an_import_under_what_is_no_label_is_refused(light: Ledger, label: str) -> None:
    with pytest.raises(ImportRefused, match="label"):
        light.import_data([], [row("cid", 0)], None, source=label)

"""What a deletion finds, for how long it keeps out what it did not find, and ids of ledgers from before there were keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.errors import IdempotencyConflict, ImportRefused, InvalidInput
from service.forgetting.tombstones import TombstoneFile
from service.ledger import Ledger
from service.ledger.hashes import KeyedHashes
from service.ledger.migrations.versions import r0001_baseline
from service.records import ById, ByTitle, Interaction, Item, ItemName, NamedItems, Outcome, Tombstone

SECRET = b"a secret of the tests"
DAY = 86_400.0
ITEMS = [Item("1", "Hamlet"), Item("2", "Hamlet"), Item("Hamlet 2", "Heat"), Item("4", "Hamlet 2"), Item("5", "Fargo")]


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def rows_of(user: str, *item_ids: str, timestamp: int = 500) -> list[Interaction]:
    return [Interaction(user, item_id, True, timestamp) for item_id in item_ids]


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000.0)


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", SECRET, clock) as opened:
        opened.import_data(ITEMS, rows_of("ann", "1", "2", "4"), "play")
        yield opened


# What is found


def test_a_deletion_tells_what_it_found(ledger: Ledger) -> None:
    stranger = ledger.forget("nobody", None, None).request
    assert (stranger.held, stranger.found, stranger.state) == (False, Outcome.NOTHING_HELD, "completed")
    assert ledger.forget("nobody", None, None).request.found is Outcome.NOTHING_HELD
    erased = ledger.forget("ann", None, None).request
    assert (erased.held, erased.found, erased.erased_interactions) == (True, Outcome.ERASED, 3)
    ledger.complete(erased.request_id, "{}", 2_000.0)
    again = ledger.forget("ann", None, None).request
    assert (again.held, again.found, again.state) == (False, Outcome.ALREADY_ERASED, "completed")
    assert [ledger.request(one.request_id) for one in (stranger, again)] == [stranger, again]


@pytest.mark.parametrize(
    ("names", "left", "items"),
    [
        (["1"], {"2", "4"}, NamedItems(1, 1, 0, 0, 0)),
        (["  1\n", "1"], {"2", "4"}, NamedItems(2, 2, 0, 0, 0)),
        (["Hamlet"], {"4"}, NamedItems(1, 1, 0, 0, 0)),  # every item of that title
        (["Hamlet 2"], {"1", "2", "4"}, NamedItems(1, 0, 0, 1, 0)),  # an id comes before a title
        ([ByTitle("Hamlet 2")], {"1", "2"}, NamedItems(1, 1, 0, 0, 0)),
        ([ById("Hamlet 2")], {"1", "2", "4"}, NamedItems(1, 0, 0, 1, 0)),
        ([ById("Hamlet")], {"1", "2", "4"}, NamedItems(1, 0, 0, 0, 1)),
        ([ByTitle("hamlet"), "7", "4"], {"1", "2"}, NamedItems(3, 1, 0, 0, 2)),
    ],
)
def test_items_are_named_by_id_or_title(
    ledger: Ledger, names: list[ItemName], left: set[str], items: NamedItems
) -> None:
    request = ledger.forget("ann", names, None).request
    assert (ledger.seen("ann"), request.items, request.held) == (frozenset(left), items, bool(items.erased))
    assert request.found is (Outcome.ERASED if items.erased else Outcome.NOTHING_HELD)
    assert ledger.request(request.request_id) == request


def test_an_item_that_was_erased_is_told_apart_from_one_that_never_was_there(ledger: Ledger) -> None:
    ledger.forget("ann", ["1"], None)
    second = ledger.forget("ann", ["1", "5", "6"], None).request
    assert (second.held, second.found) == (False, Outcome.ALREADY_ERASED)
    assert second.items == NamedItems(named=3, erased=0, already_erased=1, not_held=1, unknown=1)
    ledger.forget("ann", None, None)
    after_all = ledger.forget("ann", ["2", "6"], None).request
    assert after_all.items == NamedItems(named=2, erased=0, already_erased=1, not_held=0, unknown=1)


@pytest.mark.parametrize("names", [[""], ["a\0"], [ById(" ")], [ByTitle("")], [ByTitle("\ud800")]])
def test_what_names_nothing_is_refused(ledger: Ledger, names: list[ItemName]) -> None:
    with pytest.raises(InvalidInput):
        ledger.forget("ann", names, None)
    assert ledger.counts().interactions == 3


def test_what_is_no_id_is_refused_by_the_ledger_itself(ledger: Ledger) -> None:
    for ask in (ledger.subject, ledger.seen, ledger.has_order, lambda user: ledger.history(user, 5)):
        with pytest.raises(InvalidInput, match="user_id"):
            ask(" \t")
    with pytest.raises(ImportRefused, match="id"):
        ledger.import_data([], [Interaction(" ", "1", True, 1)], None)


def test_a_ledger_keeps_one_form_of_each_id(ledger: Ledger) -> None:
    ledger.import_data([Item(" e\u0301 ", "E")], rows_of("Jose\u0301", "e\u0301\n"), None)
    assert ledger.seen(" Jos\u00e9") == {"\u00e9"}
    assert ledger.subject("Jose\u0301\t") == ledger.subject("Jos\u00e9")


def test_a_key_stands_for_all_spellings_of_one_request_alone(ledger: Ledger) -> None:
    first = ledger.forget("ann", ["1"], "key").request
    assert ledger.forget(" ann", ["1 "], "key").request == first
    for user, names, remember in (("ann", [ById("1")], False), ("ann", [ByTitle("1")], False), ("ann", ["1"], True)):
        with pytest.raises(IdempotencyConflict):
            ledger.forget(user, names, "key", remember)


# For how long


def test_an_unknown_id_is_kept_out_for_a_time_and_only_by_older_rows(ledger: Ledger, clock: Clock) -> None:
    ledger.forget("bob", None, None)
    [stone] = ledger.tombstones()
    assert (stone.expires_at, stone.accepted_at) == (1_000.0 + 30 * DAY, 1_000.0)
    late = ledger.import_data([], rows_of("bob", "1", timestamp=1_000) + rows_of("bob", "2", timestamp=1_001), None)
    assert (late.tombstoned, ledger.seen("bob")) == (1, frozenset({"2"}))
    assert ledger.resurrected_users() == {}
    clock.now += 30 * DAY
    assert ledger.import_data([], rows_of("bob", "1"), None).tombstoned == 0
    assert ledger.tombstones() == []


def test_an_unknown_id_is_kept_out_for_ever_if_asked_to(ledger: Ledger, clock: Clock) -> None:
    request = ledger.forget("bob", None, None, remember=True).request
    assert request.found is Outcome.NOTHING_HELD
    clock.now += 1_000 * DAY
    ledger.forget("bob", None, None)
    assert ledger.forget("bob", None, None).request.found is Outcome.NOTHING_HELD
    clock.now += 1_000 * DAY
    assert ledger.import_data([], rows_of("bob", "1", timestamp=2**40), None).tombstoned == 1


def test_what_was_held_is_kept_out_for_ever(ledger: Ledger, clock: Clock) -> None:
    ledger.forget("ann", ["1", "5"], None)
    clock.now += 31 * DAY
    ledger.forget("ann", ["1"], None)
    clock.now += 31 * DAY
    late = ledger.import_data([], rows_of("ann", "1", "5", timestamp=2**40), None)
    assert (late.tombstoned, ledger.seen("ann")) == (1, frozenset({"2", "4", "5"}))


def test_a_ledger_may_remember_nothing_that_it_has_not_held(tmp_path: Path) -> None:
    with Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", SECRET, remember_seconds=0) as ledger:
        ledger.forget("bob", None, None)
        assert ledger.tombstones() == []


def test_a_restored_ledger_gets_back_what_still_stands(ledger: Ledger, tmp_path: Path, clock: Clock) -> None:
    file = TombstoneFile(tmp_path / "tombstones.jsonl", KeyedHashes(SECRET))
    ledger.forget("bob", None, None)
    file.add_tombstones(ledger.tombstones())
    with Ledger(f"sqlite:///{tmp_path}/restored.sqlite", SECRET, clock) as restored:
        restored.import_data(ITEMS, rows_of("bob", "1") + rows_of("bob", "2", timestamp=1_001), "play")
        assert restored.restore_tombstones(file.standing())[0] == 1
        assert restored.resurrected_users() == {"bob": ["1"]}
    clock.now += 30 * DAY
    with Ledger(f"sqlite:///{tmp_path}/late.sqlite", SECRET, clock) as late:
        assert late.restore_tombstones(file.standing())[0] == 0


def test_the_tombstone_file_tells_when_one_ends_and_what_outlasts_it(tmp_path: Path) -> None:
    path = tmp_path / "tombstones.jsonl"
    ends, later, never = (Tombstone("s", "", "r", 1, at, 5.0) for at in (10.0, 20.0, None))
    for stone in (later, ends, never, later):
        TombstoneFile(path, KeyedHashes(SECRET)).add_tombstones([stone])
    assert TombstoneFile(path, KeyedHashes(SECRET)).standing() == [never]
    assert len(path.read_text().splitlines()) == 3  # with the seal
    TombstoneFile(path, KeyedHashes(SECRET)).add_tombstones([Tombstone("t", "", "r", 1)])
    # As earlier versions wrote it, and can read it.
    assert json.loads(path.read_text().splitlines()[-1]).keys() >= {"event", "subject", "grave", "request_id", "fence"}
    assert "expires_at" not in path.read_text().splitlines()[-1]


# Ledgers from before


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/before.sqlite"
        return
    with request.getfixturevalue("new_database")() as opened:
        yield opened


def test_ids_of_earlier_versions_become_keys_and_meet(url: str) -> None:
    nfd, nfc = "Jose\u0301", "Jos\u00e9"
    hashes = KeyedHashes(SECRET)
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    tables = r0001_baseline.metadata.tables
    with engine.begin() as connection:
        r0001_baseline.metadata.create_all(connection)
        plain = {"year": None, "genres": "[]", "author": None}
        items = [{"item_id": item_id, "title": item_id, **plain} for item_id in ("a", "e\u0301", "\u00e9", "A\u030a")]
        connection.execute(tables["items"].insert(), items)
        rows = [
            (nfd, "a", True, 5),
            (nfc, "a", False, 4),
            (nfd, "e\u0301", True, 1),
            (nfc, "\u00e9", False, 2),
            ("bob", "A\u030a", True, 3),
            ("cid", "a", True, 3),
        ]
        columns = ("user_id", "item_id", "liked", "timestamp")
        connection.execute(tables["interactions"].insert(), [dict(zip(columns, row, strict=True)) for row in rows])
        seen = [("adapter", "d1", nfd, 2), ("adapter", "d1", nfc, 1), ("row", "r1", nfd, 1)]
        columns = ("kind", "key", "user_id", "samples")
        connection.execute(tables["exposures"].insert(), [dict(zip(columns, row, strict=True)) for row in seen])
        connection.execute(tables["changes"].insert(), [{"user_id": nfd, "revision": 1}])
        gone = hashes.of("subject", "Zoe\u0308")
        connection.execute(
            tables["tombstones"].insert(), [{"subject": gone, "grave": "", "request_id": "r", "fence": 1}]
        )
        connection.execute(
            tables["state"].insert(), [{"id": 1, "fence": 1, "revision": 7, "published_fence": 0, "shards_training": 0}]
        )
    engine.dispose()
    with Ledger(url, SECRET) as ledger:
        view = ledger.view()
        assert [item.item_id for item in view.items] == ["a", "\u00c5", "\u00e9"]
        assert view.interactions == {
            nfc: (Interaction(nfc, "\u00e9", False, 2), Interaction(nfc, "a", True, 5)),
            "bob": (Interaction("bob", "\u00c5", True, 3),),
            "cid": (Interaction("cid", "a", True, 3),),
        }
        with ledger.read_transaction() as transaction:
            assert transaction.changed(None, 10).keys() == {nfc, "bob"}
        assert ledger.import_data([], rows_of("Zo\u00eb", "a"), None).tombstoned == 1
        request = ledger.forget(nfd, None, None).request
        assert (request.erased_interactions, request.masked_samples, request.masked_rows) == (2, 3, 1)
        assert ledger.mask().adapters == {"d1"}
        assert ledger.forget("Zoe\u0308", None, None).request.found is Outcome.ALREADY_ERASED

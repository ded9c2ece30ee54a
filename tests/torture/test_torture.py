"""Sixty kills, at every named step and at random times; and that whoever looks for damage afterwards would find it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.forks import Forks

from . import checks
from .runner import AT_RANDOM, MODEL_SIZES, Torture
from .steps import OF_AN_ENCRYPTED_STORE, OF_THE_SERVER, OF_THE_WORKER
from .world import Journal, World

pytestmark = pytest.mark.thorough
KILLS = 60


@pytest.fixture(scope="module")
def tortured(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: Callable[..., Path], forks: Forks
) -> Iterator[Torture]:
    folder = tmp_path_factory.mktemp("torture")
    with Torture(folder, tiny_models("llama", **MODEL_SIZES), forks, seed="lethe") as torture:
        torture.run(KILLS)
        yield torture


def test_no_kill_loses_an_acknowledged_deletion_or_changes_a_byte(tortured: Torture) -> None:
    assert tortured.world.findings == []
    assert tortured.kills == KILLS
    assert tortured.world.kills.keys() == {*OF_THE_SERVER, *OF_THE_WORKER, *AT_RANDOM}


def test_a_second_call_goes_on_where_the_first_one_stopped(tortured: Torture) -> None:
    again = Journal(tortured.folder / "journal.jsonl").world
    assert again == tortured.world
    assert (again.seed, again.round, again.kills.total()) == ("lethe", KILLS, KILLS)


def test_the_same_holds_of_an_encrypted_store_whose_keys_go_with_what_is_erased(
    tmp_path: Path, tiny_models: Callable[..., Path], forks: Forks
) -> None:
    model, kills = tiny_models("llama", **MODEL_SIZES), len({*OF_THE_SERVER, *OF_THE_WORKER, *AT_RANDOM}) + 1
    with Torture(tmp_path, model, forks, seed="lethe", encrypted=True) as torture:
        torture.run(kills)
        assert torture.world.findings == []
        assert torture.world.kills.keys() == {*OF_THE_SERVER, *OF_THE_WORKER, *OF_AN_ENCRYPTED_STORE, *AT_RANDOM}
        assert checks.keys_of(torture.home)


# The checks can fail


@pytest.fixture
def home(tortured: Torture, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(tortured.home, tmp_path / "home"))


def _found(home: Path, tortured: Torture, world: World | None = None) -> list[str]:
    return checks.everything(home, tortured.clean_build(), world or tortured.world)


def _execute(home: Path, statement: str) -> None:
    with closing(sqlite3.connect(home / "ledger.sqlite")) as connection, connection:
        assert connection.execute(statement).rowcount == 1


def _some_request(tortured: Torture) -> str:
    return sorted(tortured.world.receipts)[0]


def test_a_sound_installation_is_found_sound(home: Path, tortured: Torture) -> None:
    assert _found(home, tortured) == []


def test_a_lost_request_is_found(home: Path, tortured: Torture) -> None:
    lost = _some_request(tortured)
    _execute(home, f"DELETE FROM forget_requests WHERE request_id = '{lost}'")
    assert _found(home, tortured) == [f"lost: request {lost} was acknowledged and is not known"]


def test_a_request_that_does_not_complete_is_found(home: Path, tortured: Torture) -> None:
    lost = _some_request(tortured)
    _execute(home, f"UPDATE forget_requests SET state = 'retraining' WHERE request_id = '{lost}'")
    assert _found(home, tortured) == [f"lost: request {lost} is retraining and not completed"]


def test_a_request_that_was_done_twice_is_found(home: Path, tortured: Torture) -> None:
    once, again = sorted(tortured.world.receipts)[:2]
    signed_later = f"(SELECT receipt FROM forget_requests WHERE request_id = '{again}')"
    _execute(home, f"UPDATE forget_requests SET receipt = {signed_later} WHERE request_id = '{once}'")
    assert _found(home, tortured) == [
        f"request {once} has another receipt than at first",
        f"the receipt of {once} is that of {again}",
    ]


def test_a_receipt_that_was_changed_is_found(home: Path, tortured: Torture) -> None:
    changed = _some_request(tortured)
    _execute(
        home,
        'UPDATE forget_requests SET receipt = replace(receipt, \'"unit":"user"\', \'"unit":"none"\') '
        f"WHERE request_id = '{changed}'",
    )
    found = _found(home, tortured)
    assert found[0] == f"request {changed} has another receipt than at first"
    assert found[1].startswith(f"the receipt of {changed} does not hold: the signature does not match")


def test_a_request_that_nobody_asked_for_is_found(home: Path, tortured: Torture) -> None:
    world = Journal(tortured.folder / "journal.jsonl").world
    unknown = world.answers.popitem()[1].request_id
    world.answers = {key: answer for key, answer in world.answers.items() if answer.request_id != unknown}
    assert _found(home, tortured, world) == [f"request {unknown} is there, and nobody asked for it"]


def test_a_row_too_many_and_a_row_too_few_are_found(home: Path, tortured: Torture) -> None:
    person, item = sorted(tortured.world.rows)[0]
    _execute(home, f"UPDATE interactions SET user_id = 'somebody' WHERE user_id = '{person}' AND item_id = '{item}'")
    assert _found(home, tortured) == [
        "the ledger holds 1 rows that it should not, of ['somebody']",
        f"the ledger lacks 1 rows, of ['{person}']",
    ]


def test_a_mask_that_was_not_lifted_is_found(home: Path, tortured: Torture) -> None:
    request = _some_request(tortured)
    _execute(home, f"INSERT INTO masks (kind, key, request_id) VALUES ('row', 'some row', '{request}')")
    assert _found(home, tortured) == ["1 masks are left, although no deletion is owed"]


def test_a_flipped_bit_of_an_adapter_is_found(home: Path, tortured: Torture) -> None:
    weights = sorted((home / "store" / "adapters").glob("*/adapter_model.safetensors"))[0]
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    name = weights.relative_to(home / "store")
    assert _found(home, tortured) == [f"mismatch: 1 files are not what a clean build makes, among them {name}"]


@pytest.mark.parametrize(
    "left",
    ["ledger.sqlite.bak", "store/tmp/17-0a1b", "store/adapters/0a1b", "store/generations/0a1b", "store/ACTIVE~"],
)
def test_whatever_is_left_over_is_found(home: Path, tortured: Torture, left: str) -> None:
    (home / left).mkdir()
    folder, _, name = f"home/{left}".rpartition("/")
    assert _found(home, tortured) == [f"left over: {name} in {folder}"]

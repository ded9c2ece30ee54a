"""Keys of an encrypted store in the ledger: one for each directory, wrapped, and gone once they are destroyed."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.errors import InvalidSetting
from service.ledger import Ledger

RACERS = 16
SECRET = b"a secret of the tests"
WRAPPING_KEY, ANOTHER = bytes(range(32)), bytes(32)


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "sqlite":
        with Ledger(tmp_path / "ledger.sqlite", SECRET) as opened:
            yield opened
        return
    with request.getfixturevalue("new_database")() as url, Ledger(url, SECRET) as opened:
        yield opened


def test_a_directory_has_one_key_until_it_is_destroyed(ledger: Ledger) -> None:
    keys = ledger.artifact_keys(WRAPPING_KEY)
    assert keys.find("adapters/one") is None
    first = keys.create("adapters/one")
    assert len(first) == 32
    assert first == keys.create("adapters/one") == ledger.artifact_keys(WRAPPING_KEY).find("adapters/one")
    assert first != keys.create("adapters/two")
    assert keys.directories() == {"adapters/one", "adapters/two"}
    keys.destroy(["adapters/one", "adapters/none"])
    assert keys.find("adapters/one") is None
    assert keys.directories() == {"adapters/two"}
    assert keys.create("adapters/one") != first


def test_of_many_who_make_one_key_at_once_all_get_the_same(ledger: Ledger) -> None:
    keys, line = ledger.artifact_keys(WRAPPING_KEY), threading.Barrier(RACERS)

    def make(_: int) -> bytes:
        line.wait()
        return keys.create("adapters/one")

    with ThreadPoolExecutor(RACERS) as pool:
        assert set(pool.map(make, range(RACERS))) == {keys.find("adapters/one")}


def test_another_wrapping_key_is_refused_whether_or_not_anything_is_stored(ledger: Ledger) -> None:
    assert not ledger.has_artifact_keys()
    keys = ledger.artifact_keys(WRAPPING_KEY)
    assert (ledger.has_artifact_keys(), keys.directories()) == (True, frozenset())
    for _ in range(2):
        with pytest.raises(InvalidSetting, match=r"wrapped by another key.*put the key back"):
            ledger.artifact_keys(ANOTHER)
        keys.create("adapters/one")


def test_no_key_is_in_the_database_as_it_is_and_none_at_all_when_it_was_destroyed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite", SECRET) as ledger:
        keys = ledger.artifact_keys(WRAPPING_KEY)
        key = keys.create("adapters/one")
        with ledger._database.read_transaction() as connection:
            found = connection.exec_driver_sql("SELECT wrapped_key FROM artifact_keys WHERE directory > ''").scalar()
        wrapped = str(found).encode()
        held = _bytes_of(tmp_path)
        assert wrapped in held
        assert not any(form in held for form in (key, key.hex().encode(), WRAPPING_KEY, WRAPPING_KEY.hex().encode()))
        keys.destroy(["adapters/one"])
        ledger.erase_traces()
        assert wrapped not in _bytes_of(tmp_path)


def test_the_wrapping_key_leaves_its_process_with_nothing(ledger: Ledger) -> None:
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(ledger.artifact_keys(WRAPPING_KEY))


def _bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())

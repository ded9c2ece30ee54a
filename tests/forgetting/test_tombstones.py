"""What was confirmed as forgotten stays known beside the ledger, whatever was torn or who else writes."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.errors import Damaged, StoreError
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.restore import restore_check
from service.forgetting.tombstones import TombstoneFile
from service.ledger import KeyedHashes, Ledger
from service.records import Tombstone

SECRET = b"a secret of the tests"
HASHES = KeyedHashes(SECRET)
ANN, BOB, CID = (Tombstone(name, "", f"request of {name}", fence) for fence, name in enumerate(("ann", "bob", "cid")))
ONE_ITEM = Tombstone("ann", "5f" * 32, "another", 9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tombstones.jsonl"


def test_what_was_buried_stands_also_for_who_opens_the_file_later(path: Path) -> None:
    TombstoneFile(path, HASHES).add_tombstones([ANN, ONE_ITEM])
    TombstoneFile(path, HASHES).add_tombstones([BOB])
    assert TombstoneFile(path, HASHES).standing() == [ANN, ONE_ITEM, BOB]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_burying_again_writes_nothing(path: Path) -> None:
    tombstones = TombstoneFile(path, HASHES)
    tombstones.add_tombstones([ANN, BOB])
    before = path.read_bytes()
    tombstones.add_tombstones([BOB, ANN])
    TombstoneFile(path, HASHES).add_tombstones([ANN])
    assert path.read_bytes() == before


def test_who_came_back_stands_no_more_until_they_are_forgotten_again(path: Path) -> None:
    tombstones = TombstoneFile(path, HASHES)
    tombstones.add_tombstones([ANN, BOB])
    tombstones.remove([ANN, CID])
    assert tombstones.standing() == TombstoneFile(path, HASHES).standing() == [BOB]
    tombstones.add_tombstones([ANN])
    assert TombstoneFile(path, HASHES).standing() == [BOB, ANN]


def test_two_that_have_the_file_open_see_each_other(path: Path) -> None:
    one, two = TombstoneFile(path, HASHES), TombstoneFile(path, HASHES)
    one.add_tombstones([ANN])
    two.add_tombstones([BOB])
    one.add_tombstones([CID])
    assert one.standing() == two.standing() == [ANN, BOB, CID]


@pytest.mark.parametrize("lost", range(1, 100, 7))
def test_a_torn_last_line_was_never_confirmed_and_is_written_over(path: Path, lost: int) -> None:
    TombstoneFile(path, HASHES).add_tombstones([ANN])
    whole = path.stat().st_size
    TombstoneFile(path, HASHES).add_tombstones([BOB])
    with path.open("r+b") as file:
        file.truncate(max(whole, path.stat().st_size - lost))
    survivor = TombstoneFile(path, HASHES)
    assert survivor.standing() == [ANN]
    survivor.add_tombstones([CID])
    assert TombstoneFile(path, HASHES).standing() == [ANN, CID]


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"\xff", b'{"event":"buried"}', b'{"event":"x","subject":"","grave":""}']
)
def test_a_line_that_is_not_sound_is_named_by_its_number_and_never_skipped(path: Path, line: bytes) -> None:
    TombstoneFile(path, HASHES).add_tombstones([ANN])
    with path.open("ab") as file:
        file.write(line + b"\n")
    for ask in (TombstoneFile(path, HASHES).standing, lambda: TombstoneFile(path, HASHES).add_tombstones([BOB])):
        with pytest.raises(Damaged, match=r"line 3 .* restore the file from a backup"):
            ask()


def test_a_file_that_was_replaced_by_a_shorter_one_is_read_anew(path: Path) -> None:
    TombstoneFile(path, HASHES).add_tombstones([ANN])
    backup = path.read_bytes()
    tombstones = TombstoneFile(path, HASHES)
    tombstones.add_tombstones([BOB, CID])
    path.write_bytes(backup)
    assert tombstones.standing() == [ANN]


def test_a_folder_that_is_not_there_is_said_without_a_path(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"No such file.*ask again") as raised:
        TombstoneFile(tmp_path / "gone" / "tombstones.jsonl", HASHES).add_tombstones([ANN])
    assert str(tmp_path) not in str(raised.value)


_WRITER = """
import sys
from pathlib import Path
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.restore import restore_check
from service.forgetting.tombstones import TombstoneFile
from service.ledger import KeyedHashes, Ledger
from service.records import Tombstone
SECRET = b"a secret of the tests"
HASHES = KeyedHashes(SECRET)
path, name = Path(sys.argv[1]), sys.argv[2]
for number in range(50):
    stones = [Tombstone(f"{name}{number}", "", "r", number), Tombstone(f"both{number}", "", "r", 1)]
    TombstoneFile(path, HASHES).add_tombstones(stones)
"""


def test_processes_that_write_at_once_lose_nothing_and_repeat_nothing(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(path), name]) for name in ("a", "b", "c")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    subjects = {f"{name}{number}" for name in ("a", "b", "c", "both") for number in range(50)}
    assert {tombstone.subject for tombstone in TombstoneFile(path, HASHES).standing()} == subjects
    assert len(path.read_bytes().splitlines()) == 1 + len(subjects)


# Many


def test_all_scopes_of_one_request_stand_on_one_line_and_come_back_as_they_were(tmp_path: Path) -> None:
    stones = [Tombstone("s" * 64, f"{number:064}", "f" * 32, 7, 9.0, 1.0) for number in range(1000)]
    path = tmp_path / "many.jsonl"
    TombstoneFile(path, HASHES).add_tombstones(stones)
    assert path.stat().st_size < 80_000  # of which 64,000 are the hashes
    again = TombstoneFile(path, HASHES)
    assert again.standing() == stones
    again.remove(stones[:2])
    assert TombstoneFile(path, HASHES).standing() == stones[2:]


def test_a_line_that_somebody_spaced_anew_is_still_what_was_signed(tmp_path: Path) -> None:
    path = tmp_path / "spaced.jsonl"
    TombstoneFile(path, HASHES).add_tombstones([Tombstone("s", "g", "r", 1)])
    path.write_text("".join(f"{json.dumps(json.loads(line))}\n" for line in path.read_text().splitlines()))
    assert TombstoneFile(path, HASHES).standing() == [Tombstone("s", "g", "r", 1)]


@pytest.mark.thorough
def test_a_start_beside_a_hundred_thousand_tombstones_finds_nobody_again(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    stones = [Tombstone(f"{number:064}", "", "f" * 32, number) for number in range(100_000)]
    TombstoneFile(path, HASHES).add_tombstones(stones)
    ledger = Ledger(tmp_path / "ledger.sqlite", SECRET)
    ledger.restore_tombstones(stones)
    began = time.process_time()
    file = TombstoneFile(path, HASHES)
    file.check()
    restored = restore_check(ledger, file, Intake(ledger, ReceiptSigner.open(tmp_path / "receipts.pem"), file))
    print(f"{time.process_time() - began:.2f} s of processor time")
    assert (restored.tombstones, restored.requests, len(ledger.tombstones())) == (0, (), 100_000)
    ledger.close()

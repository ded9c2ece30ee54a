"""A ledger from a backup knows nothing of who was forgotten since; the tombstone file does."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.errors import Damaged
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.restore import Restored, restore_check
from service.forgetting.tombstones import TombstoneFile
from service.ledger import KeyedHashes, Ledger
from service.records import ForgetRequest, Interaction, Item

SIGNER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
SECRET = b"a secret of the tests"
HASHES = KeyedHashes(SECRET)
ITEMS = [Item(f"i{number}", f"Title {number}") for number in range(4)]
ROWS = [Interaction(user, item.item_id, True, 1) for user in ("ann", "bob", "cid") for item in ITEMS]


class Home:
    """A ledger with a tombstone file, and a backup of the ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tombstones = TombstoneFile(folder / "tombstones.jsonl", HASHES)
        self.ledger = self._open()
        self.ledger.import_data(ITEMS, ROWS, "movie")
        self.ledger.erase_traces()  # so that the file alone is a backup
        shutil.copy(folder / "ledger.db", folder / "backup.db")

    def _open(self) -> Ledger:
        return Ledger(f"sqlite:///{self.folder}/ledger.db", SECRET)

    def forget(self, user: str, *items: str) -> ForgetRequest:
        return Intake(self.ledger, SIGNER, self.tombstones).forget(user, list(items) or None, None)

    def restore_backup(self) -> None:
        self.ledger.close()
        shutil.copy(self.folder / "backup.db", self.folder / "ledger.db")
        self.ledger = self._open()

    def check(self) -> Restored:
        return restore_check(self.ledger, self.tombstones, Intake(self.ledger, SIGNER, self.tombstones))

    def check_elsewhere(self) -> None:
        """As another process, which has the files open for itself."""
        tombstones = TombstoneFile(self.folder / "tombstones.jsonl", HASHES)
        with self._open() as ledger:
            restore_check(ledger, tombstones, Intake(ledger, SIGNER, tombstones))

    def held(self) -> dict[str, list[str]]:
        view = self.ledger.view().interactions
        return {user: [row.item_id for row in rows] for user, rows in view.items()}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_whoever_was_forgotten_after_the_backup_is_forgotten_again(home: Home) -> None:
    last = [home.forget("ann"), home.forget("bob", "i1", "i3"), home.forget("stranger")][1]
    expected = home.held()
    home.restore_backup()
    assert sorted(home.held()) == ["ann", "bob", "cid"]
    restored = home.check()
    assert (restored.tombstones, len(restored.requests)) == (4, 2)
    assert home.held() == expected == {"bob": ["i0", "i2"], "cid": ["i0", "i1", "i2", "i3"]}
    assert {request.state for request in home.ledger.pending()} == {"accepted"}
    assert all(request.fence > last.fence for request in home.ledger.pending())
    assert home.ledger.import_data(ITEMS, ROWS, None).tombstoned == 6


def test_nothing_happens_where_nothing_was_restored(home: Home) -> None:
    home.forget("ann")
    before = home.ledger.mask(), home.ledger.pending(), (home.folder / "tombstones.jsonl").read_bytes()
    assert home.check() == home.check() == Restored(0, ())
    assert (home.ledger.mask(), home.ledger.pending(), (home.folder / "tombstones.jsonl").read_bytes()) == before


def test_a_check_that_was_cut_off_is_finished_by_the_next(home: Home) -> None:
    for user in ("ann", "bob"):
        home.forget(user)
    home.restore_backup()
    home.ledger.restore_tombstones(home.tombstones.standing())
    Intake(home.ledger, SIGNER, home.tombstones).forget("ann", None, None)
    assert len(home.check().requests) == 1
    assert sorted(home.held()) == ["cid"]


def test_tombstones_that_a_crash_kept_from_the_file_are_written_to_it(home: Home) -> None:
    home.ledger.forget("ann", None, None)  # as if the process had died after its commit
    assert home.tombstones.standing() == []
    home.check()
    assert home.tombstones.standing() == home.ledger.tombstones() != []


def test_who_came_back_stays_also_when_the_old_ledger_is_restored(home: Home) -> None:
    home.forget("ann")
    rows = [row for row in ROWS if row.user_id == "ann"]
    home.tombstones.remove(home.ledger.tombstones_over(rows))
    home.ledger.import_data([], rows, None, allow_returning=True)
    assert home.check() == Restored(0, ())
    home.restore_backup()
    assert home.check() == Restored(0, ())
    assert "ann" in home.held()


def test_who_had_not_come_back_before_a_crash_stays_out(home: Home) -> None:
    home.forget("ann")
    home.tombstones.remove(home.ledger.tombstones())  # and then the import never happened
    home.check()
    home.restore_backup()
    home.check()
    assert "ann" not in home.held()


def test_who_comes_back_while_another_process_starts_is_not_forgotten_again(home: Home) -> None:
    home.forget("ann")
    rows = [row for row in ROWS if row.user_id == "ann"]
    with home.tombstones.locked():
        starting = threading.Thread(target=home.check_elsewhere)
        starting.start()
        home.tombstones.remove(home.ledger.tombstones_over(rows))
        home.ledger.import_data([], rows, None, allow_returning=True)
    starting.join()
    assert home.tombstones.standing() == home.ledger.tombstones() == []
    assert home.check() == Restored(0, ())
    assert "ann" in home.held()


def test_nothing_is_answered_on_a_damaged_tombstone_file(home: Home) -> None:
    home.forget("ann")
    (home.folder / "tombstones.jsonl").write_text("rotten\n")
    home.tombstones = TombstoneFile(home.folder / "tombstones.jsonl", HASHES)
    with pytest.raises(Damaged):
        home.check()

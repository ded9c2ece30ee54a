"""Restrictions and holds outlive the ledger that they were set in: the tombstone file knows them, and which have ended."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.errors import Damaged
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.restore import Restored, restore_check
from service.forgetting.restraining import RestraintIntake
from service.forgetting.tombstones import TombstoneFile
from service.ledger import Event, EventOutcome, KeyedHashes, Ledger, rekey
from service.records import ForgetRequest, Interaction, Item, RestraintKind

SIGNER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
SECRET = b"a secret of the tests"
HASHES = KeyedHashes(SECRET)
ITEMS = [Item(f"i{number}", f"Title {number}") for number in range(3)]
ROWS = [Interaction(user, item.item_id, True, 1) for user in ("ann", "bob") for item in ITEMS]


class Home:
    """A ledger with a tombstone file, of which backups are taken and restored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open()
        self.ledger.import_data(ITEMS, ROWS, "movie")
        self.back_up()

    def _open(self) -> None:
        self.ledger = Ledger(f"sqlite:///{self.folder}/ledger.db", SECRET)
        self.tombstones = TombstoneFile(self.folder / "tombstones.jsonl", HASHES)
        self.restraints = RestraintIntake(self.ledger.restraints, self.tombstones)

    def back_up(self) -> None:
        self.ledger.erase_traces()  # so that the file alone is a backup
        shutil.copy(self.folder / "ledger.db", self.folder / "backup.db")

    def restore_backup(self) -> Restored:
        self.ledger.close()
        shutil.copy(self.folder / "backup.db", self.folder / "ledger.db")
        return self.restart()

    def restart(self) -> Restored:
        self.ledger.close()
        self._open()
        return self.check()

    def check(self) -> Restored:
        return restore_check(self.ledger, self.tombstones, Intake(self.ledger, SIGNER, self.tombstones))

    def forget(self, user: str) -> ForgetRequest:
        return Intake(self.ledger, SIGNER, self.tombstones).forget(user, None, None)

    def ground(self, user: str, kind: RestraintKind = "restriction") -> str | None:
        """ "none" if there is no such restraint."""
        status = self.ledger.restraints.status(user, kind)
        return "none" if status is None else status.restraint.ground

    def counted(self) -> set[str]:
        return set(self.ledger.view().interactions)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home(tmp_path)
    yield opened
    opened.ledger.close()


def test_a_restored_ledger_restricts_again_and_what_was_lifted_is_not_restricted_again(home: Home) -> None:
    home.restraints.restrict("ann", "objection")
    assert home.restore_backup().restraints == 1
    assert (home.ground("ann"), home.counted()) == ("objection", {"bob"})
    assert home.check() == Restored(0, ())
    home.restraints.lift_restriction("ann")
    assert home.restore_backup().restraints == 0
    assert (home.ground("ann"), home.counted()) == ("none", {"ann", "bob"})


def test_a_restored_ledger_that_still_restricts_lets_go_of_whom_the_file_has_released(home: Home) -> None:
    home.restraints.restrict("ann", "restriction")
    home.restraints.restrict("nobody", "objection")
    home.back_up()
    home.restraints.lift_restriction("ann")
    home.restraints.lift_restriction("nobody")
    home.restraints.restrict("ann", "objection")  # another one, which the backup does not know
    assert home.restore_backup().restraints == 3
    assert (home.ground("ann"), home.ground("nobody"), home.counted()) == ("objection", "none", {"bob"})
    home.restraints.lift_restriction("ann")
    assert home.counted() == {"ann", "bob"}


def test_a_changed_ground_outlives_the_ledger_as_well(home: Home) -> None:
    home.restraints.restrict("ann", "restriction")
    home.restraints.restrict("ann", "objection")
    home.restore_backup()
    assert home.ground("ann") == "objection"


def test_a_restored_ledger_does_not_erase_a_held_person(home: Home) -> None:
    home.restraints.hold("ann", "court order")
    assert home.forget("ann").state == "held"
    restored = home.restore_backup()
    assert (restored.restraints, len(restored.requests)) == (1, 1)
    assert home.ledger.request(restored.requests[0]).state == "held"
    assert (len(home.ledger.export("ann").rows), home.counted()) == (3, {"bob"})
    assert home.ground("ann", "hold") is None  # the file holds nothing that it would have to erase
    assert "court order" not in (home.folder / "tombstones.jsonl").read_text()
    assert home.restart() == Restored(0, ())
    assert home.restraints.release_hold("ann").requests == restored.requests
    assert home.ledger.export("ann").rows == ()


@pytest.mark.parametrize("deleted_before", [False, True])
def test_a_hold_that_was_released_since_the_backup_keeps_nobody(home: Home, deleted_before: bool) -> None:
    home.restraints.hold("ann", "court order")
    if deleted_before:
        home.forget("ann")
    home.back_up()
    if not deleted_before:
        home.forget("ann")
    home.restraints.release_hold("ann")
    home.restore_backup()
    assert (home.ground("ann", "hold"), home.counted()) == ("none", {"bob"})
    assert home.ledger.export("ann").rows == ()
    assert {request.state for request in home.ledger.pending()} == {"accepted"}


def test_a_restricted_person_who_is_forgotten_stays_both(home: Home) -> None:
    home.restraints.restrict("ann", "objection")
    home.back_up()
    home.forget("ann")
    restored = home.restore_backup()
    assert (restored.restraints, len(restored.requests)) == (0, 1)
    assert home.ledger.search("ann").found == {}
    assert home.ground("ann") == "objection"


def test_a_file_that_is_lost_is_written_anew(home: Home) -> None:
    home.restraints.restrict("ann", "objection")
    home.restraints.hold("ann", "court order")
    (home.folder / "tombstones.jsonl").unlink()
    assert home.restart() == Restored(0, ())
    home.restore_backup()
    assert (home.ground("ann"), home.ground("ann", "hold")) == ("objection", None)


def test_what_was_lifted_while_it_was_being_set_again_stays_lifted(home: Home) -> None:
    status = home.restraints.restrict("ann", "restriction")
    home.restraints.lift_restriction("ann")
    home.tombstones.add_restraints([status.restraint])  # of a caller who was overtaken
    assert home.tombstones.restraints() == []
    assert home.restart() == Restored(0, ())
    assert home.ground("ann") == "none"


def test_after_a_rotation_of_the_secret_the_file_and_the_ledger_still_agree(home: Home) -> None:
    home.restraints.restrict("ann", "objection")
    home.restraints.restrict("nobody", "objection")
    home.ledger.close()
    rekey(home.folder / "ledger.db", b"another secret", [SECRET])
    file = TombstoneFile(home.folder / "tombstones.jsonl", KeyedHashes(b"another secret", [SECRET]))
    with Ledger(home.folder / "ledger.db", b"another secret", retired=[SECRET]) as ledger:
        assert restore_check(ledger, file, Intake(ledger, SIGNER, file)) == Restored(0, ())
        for user in ("ann", "nobody"):
            assert RestraintIntake(ledger.restraints, file).lift_restriction(user).restraint is not None
        assert restore_check(ledger, file, Intake(ledger, SIGNER, file)) == Restored(0, ())
        assert ledger.restraints.standing() == []


def test_rows_of_a_restricted_person_are_taken_by_nobody_who_lets_the_forgotten_return(home: Home) -> None:
    home.restraints.restrict("ann", "objection")
    home.forget("ann")
    row = Interaction("ann", "i1", True, 9_000)
    assert home.ledger.take_events([Event(row)], allow_returning=True) == [EventOutcome.RESTRICTED]
    home.restraints.lift_restriction("ann")
    assert home.ledger.take_events([Event(row)]) == [EventOutcome.FORGOTTEN]


@pytest.mark.parametrize("change", [{"kind": "none"}, {"extra": 1}, {"subject": "0" * 64}])
def test_a_line_that_was_changed_is_refused(home: Home, change: dict[str, object]) -> None:
    home.restraints.restrict("ann", "objection")
    file = home.folder / "tombstones.jsonl"
    *lines, last = file.read_text().splitlines()
    file.write_text("\n".join([*lines, json.dumps({**json.loads(last), **change})]) + "\n")
    with pytest.raises(Damaged):
        TombstoneFile(file, HASHES).check()


# Whoever is cut off


class Cut(BaseException):
    """The process ends here."""


class Trap:
    """Ends the process at a named step, once."""

    step: str | None = None

    def on_audit(self, event: str, _arguments: object) -> None:
        if event == self.step:
            self.step = None
            raise Cut(event)


TRAP = Trap()


@pytest.fixture(scope="module", autouse=True)
def _trap_is_armed() -> None:
    sys.addaudithook(TRAP.on_audit)  # it stays for good: Python has no way to take a hook off


def cut_off_at(home: Home, step: str, kind: RestraintKind, lifted: bool) -> None:
    """Set a restraint, or lift it, until that step; then start anew."""
    change: dict[tuple[RestraintKind, bool], Callable[[], object]] = {
        ("restriction", False): lambda: home.restraints.restrict("ann", "objection"),
        ("restriction", True): lambda: home.restraints.lift_restriction("ann"),
        ("hold", False): lambda: home.restraints.hold("ann", "court order"),
        ("hold", True): lambda: home.restraints.release_hold("ann"),
    }
    TRAP.step = f"lethe.restraint.{step}"
    with pytest.raises(Cut):
        change[kind, lifted]()
    home.restart()


@pytest.mark.parametrize("kind", ["restriction", "hold"])
@pytest.mark.parametrize("step", ["before_commit", "after_commit", "before_tombstone_file"])
def test_cut_off_while_it_is_set_it_stands_everywhere_or_nowhere(home: Home, step: str, kind: RestraintKind) -> None:
    cut_off_at(home, step, kind, lifted=False)
    stands = step != "before_commit"
    assert (home.ground("ann", kind) != "none") is stands
    home.restore_backup()
    assert (home.ground("ann", kind) != "none") is stands
    assert ("ann" in home.counted()) is not (stands and kind == "restriction")


@pytest.mark.parametrize("kind", ["restriction", "hold"])
@pytest.mark.parametrize("step", ["before_ledger", "before_commit", "after_commit"])
def test_cut_off_while_it_is_lifted_it_ends_at_the_next_start(home: Home, step: str, kind: RestraintKind) -> None:
    home.restraints.restrict("ann", "objection") if kind == "restriction" else home.restraints.hold("ann", "order")
    if kind == "hold":
        home.forget("ann")
    cut_off_at(home, step, kind, lifted=True)
    assert home.ground("ann", kind) == "none"
    assert len(home.ledger.export("ann").rows) == (3 if kind == "restriction" else 0)
    assert home.restart() == Restored(0, ())

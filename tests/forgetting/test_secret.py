"""The secret is made once, noticed when it is another, and replaced without anybody coming back."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.config import load_settings
from service.entrypoints.bootstrap import Home
from service.errors import Damaged, InvalidInput, InvalidSetting, LetheError, SecretChanged
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.restore import Restored, restore_check
from service.forgetting.secret import SecretFiles, Secrets, key_id
from service.forgetting.tombstones import TombstoneFile
from service.ledger import KeyedHashes, Ledger, rekey
from service.records import Interaction, Item, Tombstone

OLD, NEW, THIRD = b"the first secret of the tests", b"the second secret of the tests", b"a third secret of tests"
SIGNER = ReceiptSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
ITEMS = [Item(f"i{number}", f"Title {number}") for number in range(4)]
ROWS = [Interaction(user, item.item_id, True, 1) for user in ("ann", "bob", "cid") for item in ITEMS]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.thorough)])
def at(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    if request.param == "sqlite":
        yield tmp_path / "ledger.sqlite"
        return
    new_database: Callable[[], AbstractContextManager[str]] = request.getfixturevalue("new_database")
    with new_database() as url:
        yield url


def forget(at: str | Path, folder: Path, known: Secrets, user: str, *items: str) -> None:
    with Ledger(at, known.present, retired=known.retired) as ledger:
        file = TombstoneFile(folder / "tombstones.jsonl", known.hashes())
        Intake(ledger, SIGNER, file).forget(user, list(items) or None, None)


def skipped(at: str | Path, known: Secrets) -> int:
    """How many rows of everybody an import skips for their tombstones."""
    with Ledger(at, known.present, retired=known.retired) as ledger:
        return ledger.import_data(ITEMS, ROWS, "movie").tombstoned


def checked(at: str | Path, folder: Path, known: Secrets) -> Restored:
    with Ledger(at, known.present, retired=known.retired) as ledger:
        file = TombstoneFile(folder / "tombstones.jsonl", known.hashes())
        return restore_check(ledger, file, Intake(ledger, SIGNER, file))


# Another secret


def test_a_ledger_refuses_another_secret_and_says_what_to_do(at: str | Path) -> None:
    Ledger(at, OLD).close()
    Ledger(at, OLD).close()
    with pytest.raises(
        InvalidSetting, match=rf"key id {key_id(OLD)}.*key id {key_id(NEW)}.*Put the ledger's secret back"
    ):
        Ledger(at, NEW)
    with pytest.raises(InvalidSetting, match="lethe secret rotate"):
        Ledger(at, NEW, retired=[OLD])


def test_an_error_shows_no_secret(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite", OLD).close()
    with pytest.raises(InvalidSetting) as refused:
        Ledger(tmp_path / "ledger.sqlite", NEW)
    assert not any(secret.decode() in str(refused.value) for secret in (OLD, NEW))


def test_a_tombstone_file_of_another_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tombstones.jsonl"
    for stones in ([], [Tombstone("ann", "", "r", 1)]):  # a file without tombstones knows its secret, too
        TombstoneFile(path, KeyedHashes(OLD)).add_tombstones(stones)
        TombstoneFile(path, KeyedHashes(OLD)).check()
        with pytest.raises(InvalidSetting, match=rf"another secret \(key id {key_id(OLD)}\)"):
            TombstoneFile(path, KeyedHashes(NEW)).check()


def test_every_changed_character_of_a_tombstone_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tombstones.jsonl"
    TombstoneFile(path, KeyedHashes(OLD)).add_tombstones([Tombstone("5f" * 32, "", "request", 1)])
    sound = path.read_bytes()
    assert len(sound.splitlines()) == 2
    for position in range(len(sound)):
        changed = bytes([sound[position] ^ 1])
        if sound[position : position + 1] == b"\n" or changed == b"\n":
            continue
        path.write_bytes(sound[:position] + changed + sound[position + 1 :])
        with pytest.raises((Damaged, InvalidSetting)):
            TombstoneFile(path, KeyedHashes(OLD)).standing()


def test_lines_without_a_mac_are_read_once_and_sealed(tmp_path: Path) -> None:
    path = tmp_path / "tombstones.jsonl"
    line = b'{"event":"buried","fence":%d,"grave":"","request_id":"r","subject":"s%d"}\n'
    path.write_bytes(line % (1, 1) + line % (2, 2))
    old = path.read_bytes()
    assert [stone.subject for stone in TombstoneFile(path, KeyedHashes(OLD)).standing()] == ["s1", "s2"]
    assert path.read_bytes() == old  # who reads changes nothing
    TombstoneFile(path, KeyedHashes(OLD)).add_tombstones([])  # as the check at each start does
    assert path.read_bytes().startswith(old)
    assert len(path.read_bytes().splitlines()) == 3
    TombstoneFile(path, KeyedHashes(OLD)).add_tombstones([Tombstone("s3", "", "r", 3)])
    sound = path.read_bytes()
    assert len(TombstoneFile(path, KeyedHashes(OLD)).standing()) == 3
    with path.open("ab") as file:
        file.write(line % (4, 4))
    with pytest.raises(Damaged, match="line 5"):
        TombstoneFile(path, KeyedHashes(OLD)).standing()
    path.write_bytes(sound.replace(b'"s1"', b'"s9"'))
    with pytest.raises(Damaged, match="lines before line 3"):
        TombstoneFile(path, KeyedHashes(OLD)).standing()
    path.write_bytes(sound)
    with pytest.raises(InvalidSetting, match="another secret"):
        TombstoneFile(path, KeyedHashes(NEW)).standing()


def test_two_files_of_one_secret_may_be_joined(tmp_path: Path) -> None:
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    TombstoneFile(one, KeyedHashes(OLD)).add_tombstones([Tombstone("ann", "", "r", 1)])
    TombstoneFile(two, KeyedHashes(OLD)).add_tombstones([Tombstone("bob", "", "r", 2)])
    both.write_bytes(one.read_bytes() + two.read_bytes())
    assert [stone.subject for stone in TombstoneFile(both, KeyedHashes(OLD)).standing()] == ["ann", "bob"]


# Made once


@pytest.mark.parametrize("beside", ["a ledger", "a tombstone file"])
def test_no_secret_is_made_beside_what_was_written_under_one(tmp_path: Path, beside: str) -> None:
    with pytest.raises(InvalidSetting, match=f"but {beside}, which was written under one"):
        SecretFiles(tmp_path).open(lambda: beside)
    assert list(tmp_path.iterdir()) == []


def test_all_who_open_a_new_home_at_once_get_one_secret(tmp_path: Path) -> None:
    found, gate = [], threading.Barrier(6)

    def open_it() -> None:
        gate.wait()
        found.append(SecretFiles(tmp_path).open(lambda: "a ledger" if (tmp_path / "ledger").exists() else None).present)
        (tmp_path / "ledger").touch()

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 6


def test_a_secret_that_others_may_read_is_closed_to_them_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = SecretFiles(tmp_path).open(lambda: None)
    (tmp_path / "secret").chmod(0o644)
    assert SecretFiles(tmp_path).open(lambda: None) == first
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert "open to other users (mode 644)" in caplog.text


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_secret_that_is_too_short_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(InvalidSetting, match="16 are the least"):
        SecretFiles(tmp_path).open(lambda: None)


def test_an_sqlite_ledger_is_its_owners_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, before = tmp_path / "ledger.sqlite", os.umask(0)
    try:
        with Ledger(path, OLD) as ledger:
            ledger.import_data(ITEMS, ROWS, "movie")
            assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    finally:
        os.umask(before)
    path.chmod(0o664)
    Ledger(path, OLD).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "ledger.sqlite was open to other users (mode 664)" in caplog.text


def test_a_home_opens_with_its_secret_and_everything_in_it_is_its_owners(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert opened(home) == "opened"
    made = [home, *home.rglob("*")]
    assert {path.name for path in made} >= {"secret", "ledger.sqlite", "receipts.pem", "tombstones.jsonl", "store"}
    assert [path for path in made if path.stat().st_mode & 0o077] == []
    kept = (home / "secret").read_bytes()
    (home / "secret").unlink()
    assert "there is no secret in the home folder, but a tombstone file" in opened(home)
    (home / "tombstones.jsonl").rename(tmp_path / "aside")
    assert "there is no secret in the home folder, but a ledger" in opened(home)
    assert not (home / "secret").exists()
    (home / "secret").write_bytes(kept[::-1])
    assert f"under another secret (key id {key_id(kept)})" in opened(home)
    (home / "ledger.sqlite").rename(tmp_path / "ledger")
    (tmp_path / "aside").rename(home / "tombstones.jsonl")
    assert "tombstone file in the home folder was written under another secret" in opened(home)
    assert not (home / "ledger.sqlite").exists()  # or it would have taken this secret for its own
    (home / "secret").write_bytes(kept)
    (tmp_path / "ledger").rename(home / "ledger.sqlite")
    assert opened(home) == "opened"


def opened(home: Path) -> str:
    """What a process that opens this home comes to; all that it makes, it makes under the widest mask but its own."""
    before = os.umask(0)
    try:
        made = Home.open(load_settings(home=home))
        made.restore_check()
        made.ledger.close()
    except LetheError as error:
        return str(error)
    finally:
        os.umask(before)
    return "opened"


# Rotation


def test_after_a_rotation_the_forgotten_stay_forgotten(at: str | Path, tmp_path: Path) -> None:
    files = SecretFiles(tmp_path)
    old = files.open(lambda: None)
    assert skipped(at, old) == 0
    forget(at, tmp_path, old, "ann")
    forget(at, tmp_path, old, "bob", "i1")
    assert skipped(at, old) == 5
    new, rekeyed = files.rotate(at, tmp_path / "tombstones.jsonl")
    assert (len(rekeyed.moved), rekeyed.kept) == (1, 1)
    assert new == SecretFiles(tmp_path).open(lambda: None)
    assert new.retired == (old.present,) != (new.present,)
    assert skipped(at, new) == 5
    assert checked(at, tmp_path, new) == Restored(0, ())
    file = TombstoneFile(tmp_path / "tombstones.jsonl", new.hashes())
    assert dict(file.by_key()) == {key_id(old.present): 1, key_id(new.present): 1}
    # Bob's single item stands under the new secret: his could be written anew, as he is held.
    bobs = new.hashes().subject("bob")
    assert [stone.scope_hash for stone in file.standing() if stone.subject == bobs] == [
        new.hashes().scope_hash(bobs, "i1")
    ]
    third, _ = files.rotate(at, tmp_path / "tombstones.jsonl")
    assert third.retired == (old.present, new.present)
    assert skipped(at, third) == 5


def test_whoever_is_found_under_a_retired_tombstone_is_forgotten_again(at: str | Path, tmp_path: Path) -> None:
    files = SecretFiles(tmp_path)
    old = files.open(lambda: None)
    skipped(at, old)
    forget(at, tmp_path, old, "ann")
    new, _ = files.rotate(at, tmp_path / "tombstones.jsonl")
    with Ledger(at, new.present) as unaware:  # as a process that lost the retired secrets would
        unaware.import_data(ITEMS, ROWS, "movie")
    assert len(checked(at, tmp_path, new).requests) == 1
    assert skipped(at, new) == 4


def test_a_process_with_the_old_secret_can_write_nothing_after_a_rotation(at: str | Path, tmp_path: Path) -> None:
    files = SecretFiles(tmp_path)
    old = files.open(lambda: None)
    with Ledger(at, old.present) as running:
        running.import_data(ITEMS, ROWS, "movie")
        files.rotate(at, tmp_path / "tombstones.jsonl")
        for write in (
            lambda: running.forget("ann", None, None).request,
            lambda: running.import_data(ITEMS, ROWS, None),
            running.require_writable,
        ):
            with pytest.raises(SecretChanged, match="start it again"):
                write()
        assert running.counts().interactions == len(ROWS)


def test_an_idempotency_key_is_known_after_a_rotation(at: str | Path, tmp_path: Path) -> None:
    with Ledger(at, OLD) as ledger:
        ledger.import_data(ITEMS, ROWS, "movie")
        first = ledger.forget("ann", None, "a key").request
    rekey(at, NEW, [OLD])
    with Ledger(at, NEW, retired=[OLD]) as ledger:
        assert ledger.forget("ann", None, "a key").request.request_id == first.request_id
        assert ledger.forget("ann", None, None).request.request_id == first.request_id  # still owed
        with pytest.raises(InvalidInput, match="used before"):
            ledger.forget("bob", None, "a key")


@pytest.mark.parametrize("cut", ["before the ledger", "after the ledger"])
def test_a_rotation_that_was_cut_off_is_finished_by_the_next(at: str | Path, tmp_path: Path, cut: str) -> None:
    files, stones = SecretFiles(tmp_path), tmp_path / "tombstones.jsonl"
    old = files.open(lambda: None)
    skipped(at, old)
    forget(at, tmp_path, old, "ann")
    (tmp_path / "secret.next").write_bytes(NEW)
    (tmp_path / "secret.next").chmod(0o600)
    if cut == "after the ledger":
        files._retire(old.present)
        rekey(at, NEW, [old.present])
        with pytest.raises(InvalidSetting, match="run `lethe secret rotate`"):
            Ledger(at, old.present)
    new, _ = files.rotate(at, stones)
    assert (new.present, new.retired) == (NEW, (old.present,))
    assert not (tmp_path / "secret.next").exists()
    assert skipped(at, SecretFiles(tmp_path).open(lambda: None)) == 4


def test_a_ledger_from_before_a_rotation_is_carried_over(tmp_path: Path) -> None:
    at, files = tmp_path / "ledger.sqlite", SecretFiles(tmp_path)
    old = files.open(lambda: None)
    skipped(at, old)
    with Ledger(at, old.present) as ledger:
        ledger.erase_traces()
    backup = at.read_bytes()
    forget(at, tmp_path, old, "ann")
    new, _ = files.rotate(at, tmp_path / "tombstones.jsonl")
    at.write_bytes(backup)
    with pytest.raises(InvalidSetting, match="retired secret: run `lethe secret rotate`"):
        Ledger(at, new.present, retired=new.retired)
    again, _ = files.rotate(at, tmp_path / "tombstones.jsonl")
    assert again == new
    assert len(checked(at, tmp_path, new).requests) == 1
    assert skipped(at, new) == 4


def test_a_secret_from_the_environment_is_rotated_by_giving_both(at: str | Path, tmp_path: Path) -> None:
    stones = tmp_path / "tombstones.jsonl"
    old = SecretFiles(tmp_path, OLD.decode()).open(lambda: None)
    skipped(at, old)
    forget(at, tmp_path, old, "ann")
    with pytest.raises(InvalidInput, match="LETHE_RETIRED_SECRETS"):
        SecretFiles(tmp_path, OLD.decode()).rotate(at, stones)
    with pytest.raises(InvalidSetting, match="neither the new one nor a retired one"):
        SecretFiles(tmp_path, NEW.decode()).rotate(at, tmp_path / "none.jsonl")
    new, rekeyed = SecretFiles(tmp_path, NEW.decode(), (OLD.decode(),)).rotate(at, stones)
    assert (new, rekeyed.kept) == (Secrets(NEW, (OLD,), given=True), 1)
    assert not (tmp_path / "secret").exists()
    assert skipped(at, new) == 4


def test_a_wrong_secret_rotates_nothing(at: str | Path, tmp_path: Path) -> None:
    Ledger(at, THIRD).close()
    SecretFiles(tmp_path).open(lambda: None)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("secret")}
    with pytest.raises(InvalidSetting, match="put it back first"):
        SecretFiles(tmp_path).rotate(at, tmp_path / "tombstones.jsonl")
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("secret")}
    assert after == before
    Ledger(at, THIRD).close()

"""The key that wraps an encrypted store's keys: made once, never beside what another one has wrapped, and refused if wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters_store import MissingArtifact, StoreFailure
from service.config import load_settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.main import app
from service.errors import InvalidInput, InvalidSetting, LetheError, SecretChanged
from service.forgetting.store_key import open_store_key, rotate_store_key
from service.ledger import rewrap

GIVEN = "0f" * 32


def opened(home: Path, **settings: object) -> str:
    """What a process that opens this home comes to."""
    try:
        made = Home.open(load_settings(home=home, **{"store_encryption": "per-artifact", **settings}))
        made.ledger.close()
    except (LetheError, StoreFailure) as error:
        return str(error)
    return "opened"


def refusal(home: Path) -> str:
    with pytest.raises(InvalidSetting) as refused:
        open_store_key(home, None, lambda: False)
    return str(refused.value)


def test_it_is_made_where_nothing_was_wrapped_and_stays(tmp_path: Path) -> None:
    key = open_store_key(tmp_path, None, lambda: False)
    assert len(key) == 32
    assert key == open_store_key(tmp_path, None, lambda: True)
    assert (tmp_path / "store.key").stat().st_mode & 0o077 == 0
    assert open_store_key(tmp_path, GIVEN, lambda: True) == bytes.fromhex(GIVEN)


def test_a_file_that_others_may_read_or_that_is_no_key_is_refused(tmp_path: Path) -> None:
    open_store_key(tmp_path, None, lambda: False)
    path = tmp_path / "store.key"
    path.chmod(0o640)
    assert "open to other users" in refusal(tmp_path)
    path.chmod(0o600)
    path.write_text("not a key")
    assert "expected 64 hexadecimal digits" in refusal(tmp_path)
    assert "not a key" not in refusal(tmp_path)
    path.unlink()
    path.mkdir()
    assert "cannot be used" in refusal(tmp_path)


def test_without_the_key_or_with_another_a_home_does_not_open_and_says_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert opened(home) == "opened"
    kept = (home / "store.key").read_bytes()
    (home / "store.key").unlink()
    assert "there is no store.key in the home folder, but the ledger holds keys" in opened(home)
    assert not (home / "store.key").exists()
    assert "wrapped by another key" in opened(home, store_key=GIVEN)
    assert opened(home, store_key=kept.decode()) == "opened"
    (home / "store.key").write_bytes(GIVEN.encode())
    (home / "store.key").chmod(0o600)
    assert "put the key back (the file `store.key` in the home folder, or LETHE_STORE_KEY)" in opened(home)
    (home / "store.key").write_bytes(kept)
    assert opened(home) == "opened"


def test_a_store_is_of_one_form_from_the_first_on(tmp_path: Path) -> None:
    plain, encrypted = tmp_path / "plain", tmp_path / "encrypted"
    assert opened(plain, store_encryption="off") == opened(encrypted) == "opened"
    assert (plain / "store" / "FORMAT").read_text() == "1\n"
    assert not (plain / "store.key").exists()
    assert "the store is not encrypted" in opened(plain)
    assert "set LETHE_STORE_ENCRYPTION=per-artifact" in opened(encrypted, store_encryption="off")
    elsewhere = f"file://{tmp_path}/elsewhere"
    assert opened(plain, store_url=elsewhere) == "opened"


def test_nothing_of_a_home_holds_a_plain_byte_of_its_store(tmp_path: Path) -> None:
    home = Home.open(load_settings(home=tmp_path, store_encryption="per-artifact"))
    stated = home.store.adapters.add("a" * 64, {"weights": b"what was learnt of people"})
    assert home.store.adapters.stated("a" * 64, stated).read() == {"weights": b"what was learnt of people"}
    assert not any(b"learnt" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    home.store.erase_except([], [], [])
    home.ledger.erase_traces()
    with pytest.raises(MissingArtifact):
        home.store.adapters.sums("a" * 64)
    home.ledger.close()


# Rotation


FILES = {"weights": b"what was learnt of people"}
ENCRYPTED = {"LETHE_STORE_ENCRYPTION": "per-artifact"}


def filled(folder: Path, **settings: object) -> Home:
    home = Home.open(load_settings(home=folder, store_encryption="per-artifact", **settings))
    home.store.adapters.add("a" * 64, FILES)
    return home


def is_read(folder: Path, **settings: object) -> bool:
    home = Home.open(load_settings(home=folder, store_encryption="per-artifact", **settings))
    found = home.store.adapters.stated("a" * 64, home.store.adapters.sums("a" * 64)).read()
    home.ledger.close()
    return found == FILES


def test_after_a_rotation_the_new_key_opens_everything_and_the_old_one_nothing(tmp_path: Path) -> None:
    running = filled(tmp_path)
    old = (tmp_path / "store.key").read_text()
    done = CliRunner().invoke(app, ["secret", "rotate-store-key", "--home", str(tmp_path), "--json"], env=ENCRYPTED)
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"keys_wrapped_anew": 1})
    assert is_read(tmp_path)
    assert not (tmp_path / "store.key.next").exists()
    assert "wrapped by another key" in opened(tmp_path, store_key=old)
    with pytest.raises(SecretChanged, match="start it again"):
        running.store.adapters.add("b" * 64, FILES)  # or a key would be lost
    running.ledger.close()


@pytest.mark.parametrize("is_rewrapped", [False, True])
def test_a_rotation_that_was_cut_off_goes_on(tmp_path: Path, is_rewrapped: bool) -> None:
    filled(tmp_path).ledger.close()
    old, following = (tmp_path / "store.key").read_text(), tmp_path / "store.key.next"
    following.write_text(GIVEN)
    following.chmod(0o600)
    if is_rewrapped:
        assert rewrap(tmp_path / "ledger.sqlite", bytes.fromhex(old), bytes.fromhex(GIVEN)) == 1
        assert "run `lethe secret rotate-store-key` again" in opened(tmp_path)
    assert rotate_store_key(tmp_path, None, None, tmp_path / "ledger.sqlite") == (0 if is_rewrapped else 1)
    assert (tmp_path / "store.key").read_text() == GIVEN
    assert is_read(tmp_path)


def test_a_key_of_the_environment_is_rotated_to_one_of_a_file(tmp_path: Path) -> None:
    home, to = tmp_path / "home", tmp_path / "next"
    filled(home, store_key=GIVEN).ledger.close()
    to.write_text(f"{'1e' * 32}\n")
    to.chmod(0o600)
    for _ in range(2):
        rotate_store_key(home, GIVEN, to, home / "ledger.sqlite")
    assert is_read(home, store_key="1e" * 32)
    assert not (home / "store.key").exists()
    for given, file in ((GIVEN, None), (None, to)):
        with pytest.raises(InvalidInput, match="--to names a file"):
            rotate_store_key(home, given, file, home / "ledger.sqlite")

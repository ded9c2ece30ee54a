"""The key that wraps the keys of an encrypted store: 64 hexadecimal digits, in the environment or in the home folder.

It is kept apart from the database, whose backups hold what it wraps: also keys that were destroyed since, which open to nobody
once the key is rotated and the old one is gone. Files: `store.key`, and `store.key.next` while a rotation is under way.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from adapters_store import KEY_BYTES, sync_directory, write_once
from service.errors import InvalidInput, InvalidSetting
from service.ledger import rewrap

STORE_KEY = "store.key"

_OTHERS = 0o077  # permissions of group and others


def open_store_key(home: Path, given: str | None, is_in_use: Callable[[], bool]) -> bytes:
    """Return the key (32 bytes): the one that is `given`, or else the file's, made where there is none.

    With `is_in_use` none is made: the ledger holds keys that another one has wrapped. Raises InvalidSetting.
    """
    if given is not None:
        return _parsed(given, "LETHE_STORE_KEY")
    path = home / STORE_KEY
    try:
        # Another process may have made both meanwhile: the file first.
        if not path.exists() and is_in_use() and not path.exists():
            raise InvalidSetting(
                f"there is no {STORE_KEY} in the home folder, but the ledger holds keys that one has wrapped: without it "
                f"nothing of the store can be read. Put {STORE_KEY} back from a backup, or give its content as LETHE_STORE_KEY"
            )
        write_once(path, _new)
        return _read(path)
    except OSError as error:
        raise _unusable(error) from error


def rotate_store_key(home: Path, given: str | None, to: Path | None, ledger: str | Path) -> int:
    """Wrap the ledger's keys with another key, and return how many there were.

    The new key is made in the home folder, and takes the place of the old one there; where the old one is `given`, it is
    what the file `to` holds. Cut off anywhere, the next call goes on. Raises InvalidInput, InvalidSetting, and as `rewrap`.
    """
    if (given is None) != (to is None):
        raise InvalidInput(
            "where LETHE_STORE_KEY holds the key, --to names a file with the next one, which is to be set afterwards; "
            "where store.key in the home folder does, the next one is made there"
        )
    path, following = home / STORE_KEY, home / f"{STORE_KEY}.next"
    try:
        if given is not None and to is not None:
            return rewrap(ledger, _parsed(given, "LETHE_STORE_KEY"), _read(to))
        present = _read(path)
        write_once(following, _new)
        count = rewrap(ledger, present, _read(following))
        os.replace(following, path)
        sync_directory(home)
        return count
    except OSError as error:
        raise _unusable(error) from error


def _new() -> bytes:
    return secrets.token_hex(KEY_BYTES).encode()


def _unusable(error: OSError) -> InvalidSetting:
    return InvalidSetting(
        f"the store key's file cannot be used ({error.strerror}); give it to the user that runs this process"
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & _OTHERS:
            raise InvalidSetting(
                f"the store key's file {path.name} is open to other users; close it to them (chmod 600)"
            )
        return _parsed(file.read(4 * KEY_BYTES).decode("ascii", "replace").strip(), path.name)


def _parsed(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidSetting(
            f"{where} is no key: expected {2 * KEY_BYTES} hexadecimal digits, as `openssl rand -hex {KEY_BYTES}` makes them"
        )
    return key

"""The tombstones once more, in a file of the home folder: an old ledger that is restored does not know the later ones.

One JSON object a line, only ever appended to: a deletion is answered after its line is on the disk. The file holds keyed
hashes; keep it, and the secret, when you restore a ledger. Restraints (restrictions and legal holds) stand in it, too, each
under an id, so that an old ledger lifts none of them, and none that was lifted comes back. Grounds of holds do not: what is
written here cannot be erased.

Each line names the secret that it was written under (`key`, the beginning of the secret's check value) and carries a MAC of
itself under that secret. A file begins with a line that seals what stands before it: nothing, or the lines of a version of
Lethe that wrote no MACs, which are read as they are, once. After a seal, a line without a MAC is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from adapters_store import canonical_json, sync_directory
from service.errors import Damaged, InvalidSetting, StoreError
from service.ledger import KEY_ID_LENGTH, KeyedHashes
from service.records import Restraint, Tombstone

_BURIED, _RETURNED, _SEALED = "buried", "returned", "sealed"
_RESTRAINED, _LIFTED = "restrained", "lifted"
_SCOPE_HASH = "grave"  # the first version's word, under which the file keeps it
_SCOPE_HASHES = "graves"  # several of one request


class TombstoneFile:
    """Safe for many processes and threads at once.

    Raises StoreError when the file cannot be read or written, Damaged when a line is not sound, and InvalidSetting when it was
    written under a secret that `hashes` does not hold.
    """

    def __init__(self, path: Path, hashes: KeyedHashes) -> None:
        self._path = path
        self._hashes = hashes
        self._secrets = {_key_id(keyed): keyed for keyed in hashes.every()}
        self._turn = threading.RLock()
        self._descriptor: int | None = None  # while it is locked
        self._begin_anew(None)

    def check(self) -> None:
        """Read the file, if there is one, and change nothing. Raises as the class says."""
        with self._turn, _failures():
            if self._path.exists():
                with self._opened() as descriptor:
                    self._catch_up(descriptor)

    def standing(self) -> list[Tombstone]:
        """All tombstones that no return has removed. Raises Damaged, naming the line, if the file is not sound."""
        with self.locked():
            return list(self._standing.values())

    def by_key(self) -> Mapping[str, int]:
        """Key id -> how many standing tombstones were written under this secret; one without a MAC counts for the present."""
        with self.locked():
            return Counter(self._written_under[scope_hash] for scope_hash in self._standing)

    def add_tombstones(self, tombstones: Iterable[Tombstone]) -> None:
        """Append those that do not stand yet, or for a shorter time; of none, seal a file that is not sealed."""
        with self.locked() as descriptor:
            self._seal(descriptor)
            new = [
                stone for stone in tombstones if stone.adds_to(self._standing.get((stone.subject, stone.scope_hash)))
            ]
            self._append(descriptor, _BURIED, new)

    def remove(self, tombstones: Iterable[Tombstone]) -> None:
        """Append that the users of these came back."""
        with self.locked() as descriptor:
            self._seal(descriptor)
            self._append(descriptor, _RETURNED, [s for s in tombstones if (s.subject, s.scope_hash) in self._standing])

    def restraints(self) -> list[Restraint]:
        """All restraints that were not lifted."""
        with self.locked():
            return list(self._restraints.values())

    def lifted(self) -> frozenset[str]:
        """Ids of all restraints that were lifted."""
        with self.locked():
            return frozenset(self._lifted)

    def add_restraints(self, restraints: Iterable[Restraint]) -> None:
        """Append those that do not stand so yet, and were not lifted meanwhile."""
        with self.locked() as descriptor:
            self._seal(descriptor)
            written = [_written(restraint) for restraint in restraints]
            open_ = [one for one in written if one.restraint_id not in self._lifted]
            new = [one for one in open_ if self._restraints.get(one.restraint_id) != one]
            self._append_lines(descriptor, _RESTRAINED, (_stated_restraint(one) for one in new))

    def lift(self, restraint: Restraint) -> None:
        """Append that a restraint was lifted."""
        with self.locked() as descriptor:
            self._seal(descriptor)
            if restraint.restraint_id not in self._lifted:
                self._append_lines(descriptor, _LIFTED, [_stated_restraint(_written(restraint))])

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Nobody else reads or writes the file meanwhile: to compare it with a ledger, or to change both."""
        with self._turn:
            if self._descriptor is not None:
                yield self._descriptor
                return
            with self._opened() as descriptor:
                self._descriptor = descriptor
                try:
                    self._catch_up(descriptor)
                    yield descriptor
                finally:
                    self._descriptor = None

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with _failures():
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            with _failures():
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _begin_anew(self, file: tuple[int, int] | None) -> None:
        self._file = file  # device and inode
        self._standing: dict[tuple[str, str], Tombstone] = {}
        self._written_under: dict[tuple[str, str], str] = {}  # key ids
        self._restraints: dict[str, Restraint] = {}  # by their ids
        self._lifted: set[str] = set()
        self._read_to = 0  # bytes
        self._lines = 0
        self._sealed = False
        self._unsealed = hashlib.sha256()  # of the lines before the first seal

    def _catch_up(self, descriptor: int) -> None:
        with _failures():
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != self._file or status.st_size < self._read_to:
                self._begin_anew((status.st_dev, status.st_ino))  # somebody put another file here
            content = os.pread(descriptor, status.st_size - self._read_to, self._read_to)
        whole = content[: content.rfind(b"\n") + 1]  # a torn last line was never confirmed to anybody
        for line in whole.splitlines(keepends=True):
            self._take(line, self._lines + 1)
            self._lines += 1
            self._read_to += len(line)

    def _take(self, line: bytes, number: int) -> None:
        stated = _parsed(line, number)
        key = self._verified(stated, line, number)
        event = stated.pop("event", None)
        if event == _SEALED and key:
            self._take_seal(stated, number)
        elif event in (_BURIED, _RETURNED):
            self._take_tombstone(event, stated, key, number)
        elif event in (_RESTRAINED, _LIFTED):
            self._take_restraint(event, stated, number)
        else:
            raise _unsound(number)
        if not self._sealed:
            self._unsealed.update(line)

    def _verified(self, stated: dict[str, Any], line: bytes, number: int) -> str:
        """The key id of the line, whose MAC is right. Of a line before the first seal: none, if it has none."""
        key, mac = stated.pop("key", None), stated.pop("mac", None)
        if key is None and mac is None and not self._sealed:
            return ""
        if not isinstance(key, str):
            raise _unsound(number)
        if key not in self._secrets:
            raise InvalidSetting(
                f"line {number} of the tombstone file in the home folder was written under another secret (key id {key}) than "
                f"the one given here (key id {_key_id(self._hashes)}); put that secret back (the file `secret`, or "
                "`secret.retired` for those from before a rotation) from a backup"
            )
        # A line is read as it was written, unless somebody has spaced it anew: writing it again takes longer than all the rest.
        as_written = line.decode(errors="replace").replace(f'"mac":"{mac}",', "", 1)
        keyed = self._secrets[key]
        if not _equal(mac, _mac_of(keyed, as_written)) and not _equal(mac, self._mac(keyed, {**stated, "key": key})):
            raise _unsound(number)
        return key

    def _take_seal(self, stated: Mapping[str, Any], number: int) -> None:
        # A seal of nothing may stand anywhere: two files that were joined have one in their middle.
        if stated["lines"] and (stated["lines"], stated["sha256"]) != (number - 1, self._unsealed.hexdigest()):
            raise Damaged(
                f"the lines before line {number} of the tombstone file in the home folder were changed; restore the file from "
                "a backup"
            )
        self._sealed = True

    def _take_tombstone(self, event: str, stated: dict[str, Any], key: str, number: int) -> None:
        try:
            scopes = stated.pop(_SCOPE_HASHES) if _SCOPE_HASHES in stated else [stated.pop(_SCOPE_HASH)]
            tombstones = [Tombstone(scope_hash=scope_hash, **stated) for scope_hash in scopes]
        except (KeyError, TypeError):
            raise _unsound(number) from None
        for tombstone in tombstones:
            over = (tombstone.subject, tombstone.scope_hash)
            if event == _BURIED:
                self._standing[over], self._written_under[over] = tombstone, key or _key_id(self._hashes)
            else:
                self._standing.pop(over, None)

    def _take_restraint(self, event: str, stated: dict[str, Any], number: int) -> None:
        try:
            restraint = Restraint(**stated)
        except TypeError:
            raise _unsound(number) from None
        if event == _RESTRAINED and restraint.restraint_id not in self._lifted:
            self._restraints[restraint.restraint_id] = restraint
        elif event == _LIFTED:
            self._restraints.pop(restraint.restraint_id, None)
            self._lifted.add(restraint.restraint_id)

    def _seal(self, descriptor: int) -> None:
        if not self._sealed:
            content = {"event": _SEALED, "lines": self._lines, "sha256": self._unsealed.hexdigest()}
            self._write(descriptor, self._line(content))

    def _append(self, descriptor: int, event: str, tombstones: Collection[Tombstone]) -> None:
        self._append_lines(descriptor, event, _stated(tombstones))

    def _append_lines(self, descriptor: int, event: str, contents: Iterable[Mapping[str, Any]]) -> None:
        if lines := b"".join(self._line({"event": event, **stated}) for stated in contents):
            self._write(descriptor, lines)

    def _write(self, descriptor: int, lines: bytes) -> None:
        with _failures():
            os.ftruncate(descriptor, self._read_to)
            if os.write(descriptor, lines) < len(lines):
                raise OSError(None, "the disk is full")
            os.fsync(descriptor)
            if self._read_to == 0:
                sync_directory(self._path.parent)
        self._catch_up(descriptor)

    def _line(self, content: Mapping[str, Any]) -> bytes:
        content = {**content, "key": _key_id(self._hashes)}
        return canonical_json({**content, "mac": self._mac(self._hashes, content)})

    def _mac(self, keyed: KeyedHashes, content: Mapping[str, Any]) -> str:
        return _mac_of(keyed, canonical_json(dict(content)).decode())


def _mac_of(keyed: KeyedHashes, text: str) -> str:
    return keyed.of("tombstone line", text)


def _key_id(keyed: KeyedHashes) -> str:
    return keyed.check()[:KEY_ID_LENGTH]


def _equal(given: object, expected: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode())


def _stated(tombstones: Iterable[Tombstone]) -> Iterator[dict[str, Any]]:
    """One line for all scopes of one request: whoever names a thousand items has one long line written, not a thousand."""
    scopes: dict[Tombstone, list[str]] = {}
    for stone in tombstones:
        scopes.setdefault(replace(stone, scope_hash=""), []).append(stone.scope_hash)
    for stone, scope_hashes in scopes.items():
        stated = {name: value for name, value in asdict(stone).items() if name != "scope_hash" and value is not None}
        # A single one is written as it always was, so that earlier versions can read it.
        yield stated | ({_SCOPE_HASH: scope_hashes[0]} if len(scope_hashes) == 1 else {_SCOPE_HASHES: scope_hashes})


def _written(restraint: Restraint) -> Restraint:
    """A restraint as it stands in the file, from which nothing can be erased."""
    return replace(restraint, ground=restraint.ground if restraint.kind == "restriction" else None, fence=0)


def _stated_restraint(restraint: Restraint) -> dict[str, Any]:
    return {name: value for name, value in asdict(restraint).items() if name != "fence"}


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the tombstone file in the home folder cannot be used ({error.strerror}); "
            "a deletion is only confirmed when it is written there: make room, or make it writable, and ask again"
        ) from error


def _parsed(line: bytes, number: int) -> dict[str, Any]:
    try:
        stated = json.loads(line)
    except ValueError:
        stated = None
    if not isinstance(stated, dict):
        raise _unsound(number)
    return stated


def _unsound(number: int) -> Damaged:
    return Damaged(
        f"line {number} of the tombstone file in the home folder is not sound; restore the file from a backup"
    )

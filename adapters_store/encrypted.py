"""A place for a store in another place, where each directory is sealed with a key of its own.

Names, digests and manifests are those of the plain bytes, so a store has the same ones whether or not it is encrypted. Files of
`<kind>/<digest>/` are sealed; `ACTIVE`, `FORMAT` and notes are not. A directory's key is made before the directory and
destroyed after it: what the place keeps of its bytes beyond that, nobody can open.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from adapters_store.backend import DIRECTORIES, ENCRYPTED, Backend, ByteSearch, Listing, Remains, Signature, Swap
from adapters_store.cache import ReadCache
from adapters_store.files import DamagedArtifact, MissingArtifact, StoreFailure
from adapters_store.folder import contents_holding
from adapters_store.keys import DirectoryKeys, KeysInMemory
from adapters_store.sealing import LARGEST, NotOpened, seal, unseal

_ATTEMPTS = 8  # at a directory whose key an eraser destroys while it is written


class _Outside:
    """What is to be seen of a place without any key."""

    _inner: Listing

    def names(self, directory: str) -> list[str]:
        """Names are plain."""
        return self._inner.names(directory)

    def check_names(self, directory: str, names: Collection[str], what: str) -> None:
        """Names are plain."""
        self._inner.check_names(directory, names, what)

    def signature(self, directory: str) -> Signature:
        """Whatever changes when somebody writes to a sealed file."""
        return self._inner.signature(directory)

    def size(self, directory: str) -> int:
        """Bytes of sealed files: 28 more for each."""
        return self._inner.size(directory)


class EncryptedListing(_Outside):
    """What lay in a place when it was asked, and which directories had a key just before."""

    def __init__(self, inner: Listing, keys: Collection[str]) -> None:
        self._inner, self._keys = inner, keys

    def keys_left(self) -> frozenset[str]:
        """Directories that have a key and are not there."""
        there = {f"{kind}/{name}" for kind in DIRECTORIES for name in self._inner.names(kind)}
        return frozenset(self._keys) - there

    def abandoned(self) -> int:
        """Keys of what is not there count, too."""
        return self._inner.abandoned() + len(self.keys_left())


class Encrypted(_Outside):
    """A place for a store that seals what it puts into another; it meets `Backend`, whose docstrings say what is promised."""

    _inner: Backend

    def __init__(self, inner: Backend, keys: DirectoryKeys, cache: ReadCache | None = None) -> None:
        """`cache` keeps plain bytes, in memory; by default nothing is kept."""
        self._inner, self._keys, self._cache = inner, keys, cache or ReadCache(0)

    def __reduce__(self) -> tuple[type[Encrypted], tuple[Backend, DirectoryKeys]]:
        return Encrypted, (self._inner, self._keys)

    @property
    def format(self) -> int:
        """What is plain is of another form, and neither is taken for the other."""
        return ENCRYPTED

    @property
    def folder(self) -> Path | None:
        """The folder of sealed files, if it is one."""
        return self._inner.folder

    @property
    def bytes_a_look(self) -> int:
        """How much the place itself wants to be read again."""
        return self._inner.bytes_a_look

    def look(self) -> EncryptedListing:
        """Keys first: whoever writes a directory makes its key before it."""
        keys = self._keys.directories()
        return EncryptedListing(self._inner.look(), keys)

    def reader_of(self, directory: str) -> Backend:
        """With the key of this directory alone, and without what unwraps others."""
        key = self._keys.find(directory)
        return Encrypted(self._inner.reader_of(directory), KeysInMemory({} if key is None else {directory: key}))

    def has(self, path: str) -> bool:
        """Whether or not there is a key for it."""
        return self._inner.has(path)

    def abandoned(self) -> int:
        """Keys of what is not there count, too."""
        return self.look().abandoned()

    def read(self, path: str, what: str, digest: str | None = None) -> bytes:
        """Without its key, or sealed at another path or by another key, a file is damaged; whoever needs it makes it again."""
        directory = _directory_of(path)
        if directory is None:
            return self._inner.read(path, what)
        kept = None if digest is None else self._cache.get(path, digest)
        if kept is not None:
            return kept
        content = self._opened(directory, path, self._inner.read(path, what), what)
        if digest is not None:
            self._cache.put(path, digest, content)
        return content

    def chunks(self, path: str, what: str) -> Iterator[bytes]:
        """In one piece: nothing of a file is true before its last byte is."""
        yield self.read(path, what)

    def put(self, directory: str, files: Mapping[str, bytes], what: str) -> None:
        """The key first, so that all who make the same directory seal it to the same bytes.

        An eraser that saw the key without its directory may have destroyed it meanwhile: then it is sealed with another.
        """
        for name, content in files.items():
            if len(content) > LARGEST:
                raise StoreFailure(f"{what}: {name} has more than {LARGEST:,} bytes, and cannot be encrypted")
        for _ in range(_ATTEMPTS):
            key = self._keys.create(directory)
            sealed = {name: seal(key, f"{directory}/{name}", content) for name, content in files.items()}
            self._inner.put(directory, sealed, what)
            if self._keys.find(directory) == key or not self._inner.has(directory):
                return
        raise StoreFailure(
            f"cannot write {what}: other processes keep erasing its key. Let one worker build at a time."
        )

    def write(self, path: str, content: bytes) -> None:
        """Records are plain."""
        self._inner.write(path, content)

    def write_once(self, path: str, content: bytes) -> None:
        """Records are plain."""
        self._inner.write_once(path, content)

    def swap(self, path: str) -> Swap:
        """Records are plain."""
        return self._inner.swap(path)

    def remove(self, path: str) -> bool:
        """The key stays until others are erased: what is made again in its place is sealed to the same bytes."""
        removed = self._inner.remove(path)
        self._cache.forget(lambda kept: kept == path or kept.startswith(f"{path}/"))
        return removed

    def erase_abandoned(self) -> int:
        """Keys of all that is not there are destroyed, and not counted."""
        erased = self._inner.erase_abandoned()
        sys.audit("lethe.store.destroying_keys")
        self._keys.destroy(self.look().keys_left())
        return erased

    def remains(self) -> Remains | None:
        """What the place itself keeps."""
        return self._inner.remains()

    def keys_left(self) -> int | None:
        """How many directories have a key and are not there."""
        return len(self.look().keys_left())

    def forget_except(self, directories: Collection[str]) -> None:
        """The cache of plain bytes; the place itself keeps none."""
        keep = frozenset(directories)
        self._cache.forget(lambda path: path.rpartition("/")[0] not in keep)
        self._inner.forget_except(directories)

    def contents(self) -> Iterator[tuple[Path, bytes]]:
        """Plain where there is a key that opens it, and else as it lies there."""
        at, key = "", None
        for path, content in self._inner.contents():
            directory = _directory_of(path.as_posix())
            if directory is not None and directory != at:
                at, key = directory, self._keys.find(directory)
            yield path, content if directory is None or key is None else _plain(key, path, content)

    def search(self, needles: Sequence[bytes]) -> ByteSearch:
        """Every file as `contents` gives it."""
        return contents_holding(self.contents(), needles)

    def _opened(self, directory: str, path: str, sealed: bytes, what: str) -> bytes:
        name = path.rpartition("/")[2]
        key = self._keys.find(directory)
        if key is None and not self._inner.has(directory):  # erased since it was read
            raise MissingArtifact(f"the store holds no {what}; build again")
        if key is None:
            raise DamagedArtifact(f"{what}: there is no key for it, so nobody can read it; build again")
        try:
            return unseal(key, path, sealed)
        except NotOpened:
            raise DamagedArtifact(
                f"{what}: {name} is not what was sealed with its key in its place; build again"
            ) from None


def _directory_of(path: str) -> str | None:
    """The directory whose key seals the file at a path; None of what is plain."""
    parts = path.split("/")
    return f"{parts[0]}/{parts[1]}" if len(parts) == 3 and parts[0] in DIRECTORIES else None


def _plain(key: bytes, path: Path, sealed: bytes) -> bytes:
    try:
        return unseal(key, path.as_posix(), sealed)
    except NotOpened:
        return sealed

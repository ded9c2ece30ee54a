"""A store in a bucket of an object store, under a prefix of its own.

An object is created where there is none, and never written over: of many processes that create the same one, the server
lets one win, and the others compare what is there with what they have. A directory of files is whole when its last file, which
states the others, is there. `ACTIVE` is replaced by compare-and-swap. To erase is to delete every version of an object.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from adapters_store.backend import PLAIN, Backend, ByteSearch, Remains, Signature, Swap
from adapters_store.cache import ReadCache
from adapters_store.files import DamagedArtifact, MissingArtifact, StoreFailure
from adapters_store.folder import contents_holding
from adapters_store.objects import Objects, ObjectVersion

_ATTEMPTS = 8  # at what other processes change meanwhile
_PAUSE = 0.05  # seconds, at most, before the second one; it doubles


class BucketListing:
    """What lay in a bucket when it was asked."""

    def __init__(self, versions: Iterable[ObjectVersion], uploads: int) -> None:
        self._versions = tuple(versions)
        self._shown = {each.key: each for each in self._versions if each.shown and not each.marker}
        self._uploads = uploads

    def hidden(self) -> list[ObjectVersion]:
        """Versions that no key gives any more, and markers of deletions."""
        return [each for each in self._versions if each.marker or not each.shown]

    def remains(self) -> Remains:
        """Their number, and that of uploads."""
        return Remains(versions=len(self.hidden()), uploads=self._uploads)

    def names(self, directory: str) -> list[str]:
        """A name counts with all that lies below it."""
        return sorted({name.partition("/")[0] for name in self._below(directory)})

    def check_names(self, directory: str, names: Collection[str], what: str) -> None:
        """An object in the place of the directory is damage, too."""
        found = set(self._below(directory))
        if directory in self._shown:
            raise DamagedArtifact(f"{what}: an object lies in the place of its directory; build again")
        if not found:
            raise MissingArtifact(f"the store holds no {what}; build again")
        if wrong := sorted(found.symmetric_difference(names)):
            raise DamagedArtifact(f"{what}: {wrong[0]!r} is missing or not stated; build again")

    def signature(self, directory: str) -> Signature:
        """Name, version, tag, size and time of each object, as the server sets them."""
        found = self._below(directory)
        if not found:
            raise MissingArtifact(f"the store holds no {directory}; build again")
        return tuple((name, each.version, each.tag, each.size, each.modified) for name, each in sorted(found.items()))

    def tags(self, directory: str) -> dict[str, str]:
        """The tag of each object of a directory by its name, and under "" that of an object in its place."""
        in_place = {"": self._shown[directory].tag} if directory in self._shown else {}
        return in_place | {name: each.tag for name, each in self._below(directory).items()}

    def size(self, directory: str) -> int:
        """The sum of what the server says."""
        return sum(each.size for each in self._below(directory).values())

    def abandoned(self) -> int:
        """Hidden versions, markers and uploads."""
        remains = self.remains()
        return remains.versions + remains.uploads

    def _below(self, directory: str) -> dict[str, ObjectVersion]:
        start = f"{directory}/"
        return {key[len(start) :]: each for key, each in self._shown.items() if key.startswith(start)}


class Bucket:
    """A place for a store that is a bucket; it meets `Backend`, whose docstrings say what is promised."""

    def __init__(self, objects: Objects, cache: ReadCache) -> None:
        """Nothing is asked of the server yet."""
        self._objects, self._cache = objects, cache

    def __reduce__(self) -> tuple[Callable[[Objects], Bucket], tuple[Objects]]:
        return _without_cache, (self._objects,)

    @property
    def format(self) -> int:
        """Objects are as they were given."""
        return PLAIN

    @property
    def folder(self) -> Path | None:
        """None."""
        return None

    @property
    def bytes_a_look(self) -> int:
        """Whoever writes an object cannot choose its tag, version and time, so little is read again beyond these."""
        return 2**18

    def look(self) -> BucketListing:
        """Two requests, or one more for every thousand objects."""
        return BucketListing(self._objects.versions(), len(self._objects.uploads()))

    def reader_of(self, directory: str) -> Backend:
        """The bucket, which any process with the credentials can read."""
        return self

    def names(self, directory: str) -> list[str]:
        """One request, as each of the following."""
        return self._listing(directory).names(directory)

    def has(self, path: str) -> bool:
        """An object, or anything below it."""
        return any(each.shown and not each.marker for each in self._at(path))

    def check_names(self, directory: str, names: Collection[str], what: str) -> None:
        """One request."""
        self._listing(directory).check_names(directory, names, what)

    def signature(self, directory: str) -> Signature:
        """One request."""
        return self._listing(directory).signature(directory)

    def size(self, directory: str) -> int:
        """One request."""
        return self._listing(directory).size(directory)

    def abandoned(self) -> int:
        """Hidden versions, markers and uploads."""
        return self.look().abandoned()

    def read(self, path: str, what: str, digest: str | None = None) -> bytes:
        """Out of the cache only with the digest that is expected."""
        kept = None if digest is None else self._cache.get(path, digest)
        if kept is not None:
            return kept
        found = self._objects.get(path)
        if found is None:
            directory, _, name = path.rpartition("/")
            if directory and self.has(directory):
                raise DamagedArtifact(f"{what}: {name} is missing or no plain file; build again")
            raise MissingArtifact(f"the store holds no {what}; build again")
        if digest is not None:
            self._cache.put(path, digest, found.content)
        return found.content

    def chunks(self, path: str, what: str) -> Iterator[bytes]:
        """In one piece: an object of the store fits into memory, as it was written from there."""
        yield self.read(path, what)

    def put(self, directory: str, files: Mapping[str, bytes], what: str) -> None:
        """Object by object, each created where there is none. After the last one all of them are looked at again.

        Another process may have erased some of them meanwhile, taking them for the work of a dead one.
        """
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, _PAUSE * 2**attempt))  # those who race shall not do so in step
            tags = self._created(directory, files)
            found = self._listing(directory).tags(directory)
            if found == tags:
                sys.audit("lethe.store.renamed")
                return
            if tags is None or found.keys() - tags.keys():
                self.remove(directory)
        raise StoreFailure(f"cannot write {what}: other processes keep changing it. Let one worker build at a time.")

    def write(self, path: str, content: bytes) -> None:
        """What was there stays as an earlier version where the bucket keeps these, until others are erased."""
        self._objects.write(path, content)

    def write_once(self, path: str, content: bytes) -> None:
        """Nothing is written, nor need it be allowed, where there is one."""
        if not self.has(path):
            self._objects.create(path, content)

    def swap(self, path: str) -> Swap:
        """Raises `StoreFailure` where another process has replaced the record since this call."""
        before = self._objects.get(path)

        def write(content: bytes) -> None:
            if before is not None and before.content == content:
                return
            sys.audit("lethe.store.before_swap")
            create, replace = self._objects.create, self._objects.replace
            done = create(path, content) if before is None else replace(path, content, before.tag)
            if done is None:
                # Perhaps it was done, and its answer was lost on the way.
                now = self._objects.get(path)
                if now is None or now.content != content:
                    raise StoreFailure(f"another process has replaced {path} meanwhile; what it says now holds")
            sys.audit("lethe.store.after_swap")

        return write

    def remove(self, path: str) -> bool:
        """Every version of it and of all that lies below, in requests of a thousand."""
        found = self._at(path)
        self._cache.forget(lambda kept: _is_at(kept, path))
        if not found:
            return False
        sys.audit("lethe.store.erasing")
        self._objects.erase(found)
        return True

    def erase_abandoned(self) -> int:
        """Hidden versions, markers and uploads."""
        uploads = self._objects.uploads()
        for upload in uploads:
            self._objects.abort(upload)
        hidden = BucketListing(self._objects.versions(), 0).hidden()
        self._objects.erase(hidden)
        return len(hidden) + len(uploads)

    def remains(self) -> Remains | None:
        """What the server tells at this moment."""
        return self.look().remains()

    def keys_left(self) -> int | None:
        """There are no keys."""
        return None

    def forget_except(self, directories: Collection[str]) -> None:
        """What lies deeper than its directory is nobody's."""
        keep = frozenset(directories)
        self._cache.forget(lambda path: path.rpartition("/")[0] not in keep)

    def contents(self) -> Iterator[tuple[Path, bytes]]:
        """Every version that can be read."""
        for each in self._objects.versions():
            found = None if each.marker else self._objects.get(each.key, each.version)
            if found is not None:
                yield Path(each.key), found.content

    def search(self, needles: Sequence[bytes]) -> ByteSearch:
        """Every version is read."""
        return contents_holding(self.contents(), needles)

    def _created(self, directory: str, files: Mapping[str, bytes]) -> dict[str, str] | None:
        """The tags of the files, created here or found there with the same bytes; None: something else is there."""
        tags = {}
        for name, content in files.items():
            tag = self._created_one(f"{directory}/{name}", content)
            if tag is None:
                return None
            tags[name] = tag
        return tags

    def _created_one(self, key: str, content: bytes) -> str | None:
        for _ in range(_ATTEMPTS):
            tag = self._objects.create(key, content)
            if tag is not None:
                return tag
            found = self._objects.get(key)
            if found is not None:
                return found.tag if found.content == content else None
            # Whoever had it there is still writing it, or has erased it since.
        return None

    def _listing(self, directory: str) -> BucketListing:
        return BucketListing(self._at(directory), 0)

    def _at(self, path: str) -> list[ObjectVersion]:
        return [each for each in self._objects.versions(path) if _is_at(each.key, path)]


def _without_cache(objects: Objects) -> Bucket:
    """A bucket for a task in another process, which reads everything once: what it kept would only be one more copy."""
    return Bucket(objects, ReadCache(0))


def _is_at(key: str, path: str) -> bool:
    return key == path or key.startswith(f"{path}/")

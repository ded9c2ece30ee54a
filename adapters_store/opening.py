"""Where a store lies, by its URL: `file:///path` or `s3://bucket/prefix`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapters_store.bucket import Bucket
from adapters_store.cache import ReadCache
from adapters_store.encrypted import Encrypted
from adapters_store.files import StoreFailure
from adapters_store.folder import Folder
from adapters_store.keys import DirectoryKeys
from adapters_store.objects import Objects
from adapters_store.store import Store

_S3 = "adapters_store.s3"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A URL that was found sound: of a folder its path, of a bucket its name and the prefix there."""

    path: Path | None = None
    bucket: str = ""
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> StoreUrl:
        """Raises `ValueError` that says what was expected, and repeats nothing: a URL may hold a password."""
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("a store's URL has no user, password, query or fragment; boto3 has variables of its own")
        if parts.scheme == "file":
            if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.path == "/":
                raise ValueError("expected file:///path/of/a/folder, absolute and on this machine")
            return cls(path=Path(unquote(parts.path)))
        if parts.scheme != "s3":
            raise ValueError("expected file:///path or s3://bucket/prefix")
        prefix = parts.path.strip("/")
        if not _BUCKET.fullmatch(parts.netloc) or not _PREFIX.fullmatch(prefix):
            raise ValueError(
                "expected s3://bucket/prefix: the bucket's name, and a prefix for this store alone, of letters, digits and ._-/"
            )
        return cls(bucket=parts.netloc, prefix=prefix)


def open_store(
    url: str | None,
    default: Path,
    cache_bytes: int = 0,
    copies_may_stay: bool = False,
    find: Callable[[str], object] = find_spec,
    keys: DirectoryKeys | None = None,
) -> Store:
    """Open the store at a URL; without one, in the folder `default`.

    `cache_bytes` of what is read from a bucket are kept in memory. With `copies_may_stay`, a bucket is taken that keeps
    what is deleted (Object Lock), or copies of it (replication). `find` gives None for a module that is not installed. With
    `keys` it is encrypted, each directory with its own key.

    Raises:
        StoreFailure: it cannot be used; says why, and what to do.
        ValueError: the URL is none.
    """
    at = StoreUrl(default) if url is None else StoreUrl.parse(url)
    if at.path is not None:
        return Store(Folder(at.path) if keys is None else Encrypted(Folder(at.path), keys))
    if find("boto3") is None:
        raise StoreFailure(
            "LETHE_STORE_URL names a bucket, and boto3 is not installed; run `pip install 'lethe[s3]'` "
            "(with -c constraints.txt for the tested version)"
        )
    objects: Objects = import_module(_S3).S3Objects(at.bucket, at.prefix)
    objects.require_erasable(copies_may_stay)
    cache = ReadCache(cache_bytes)
    return Store(Bucket(objects, cache) if keys is None else Encrypted(Bucket(objects, ReadCache(0)), keys, cache))

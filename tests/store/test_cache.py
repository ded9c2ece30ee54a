"""What is kept of a bucket's files: bounded, by digest, and gone when it is to go."""

from __future__ import annotations

import hashlib

from adapters_store.cache import ReadCache


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_was_used_last_stays_within_the_bound() -> None:
    cache = ReadCache(8)
    for name in (b"aaa", b"bbb"):
        cache.put(name.decode(), digest(name), name)
    assert cache.get("aaa", digest(b"aaa")) == b"aaa"
    cache.put("ccc", digest(b"ccc"), b"ccc")
    assert cache.get("bbb", digest(b"bbb")) is None
    assert cache.get("aaa", digest(b"aaa")) == b"aaa"
    assert cache.size == 6
    cache.put("large", digest(b"9" * 9), b"9" * 9)
    assert cache.size == 6


def test_nothing_is_kept_that_does_not_have_its_digest() -> None:
    cache = ReadCache(8)
    cache.put("a", digest(b"other"), b"a")
    assert (cache.get("a", digest(b"other")), cache.size) == (None, 0)


def test_what_is_put_again_counts_once_and_goes_by_its_path() -> None:
    cache = ReadCache(8)
    for _ in range(3):
        cache.put("a/x", digest(b"xx"), b"xx")
    assert cache.size == 2
    cache.put("b/x", digest(b"xx"), b"xx")
    cache.forget(lambda path: path.startswith("a/"))
    assert (cache.get("a/x", digest(b"xx")), cache.get("b/x", digest(b"xx")), cache.size) == (None, b"xx", 2)


def test_a_cache_without_room_keeps_nothing() -> None:
    cache = ReadCache(0)
    cache.put("a", digest(b"a"), b"a")
    assert cache.get("a", digest(b"a")) is None

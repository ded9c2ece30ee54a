"""Stores in every place that a store may lie in. SeaweedFS takes seconds to start, so it is asked at length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters_store import KeysInMemory, Store
from tests.store.places import CREDENTIALS, InBucket, InFolder, Place, client_of

# Quick is what one of them does alone: the whole suite goes to all of them at length.
IN_BUCKETS = [
    pytest.param("moto", marks=pytest.mark.thorough),
    pytest.param("moto-versioned", marks=pytest.mark.thorough),
    pytest.param("seaweedfs", marks=pytest.mark.thorough),
    pytest.param("seaweedfs-versioned", marks=pytest.mark.thorough),
]


@contextmanager
def _in_bucket(named: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[InBucket]:
    server, *kinds = named.split("-")
    endpoint: str = request.getfixturevalue(f"{server}_url")
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": endpoint}.items():
        monkeypatch.setenv(name, value)
    yield InBucket(client_of(endpoint), "versioned" in kinds, KeysInMemory() if "encrypted" in kinds else None)


@pytest.fixture(params=["moto-versioned", *(each for each in IN_BUCKETS if "moto-versioned" not in each.values)])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[InBucket]:
    """A bucket of each server, with versions and without."""
    with _in_bucket(request.param, request, monkeypatch) as place:
        yield place


ENCRYPTED = [
    "file-encrypted",
    pytest.param("moto-versioned-encrypted", marks=pytest.mark.thorough),
    pytest.param("seaweedfs-versioned-encrypted", marks=pytest.mark.thorough),
]


@contextmanager
def _in(named: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if named.startswith("file"):
        folder: Path = request.getfixturevalue("tmp_path")
        yield InFolder(folder / "store", KeysInMemory() if named == "file-encrypted" else None)
        return
    with _in_bucket(named, request, monkeypatch) as bucket:
        yield bucket


@pytest.fixture(params=["file", *ENCRYPTED, *IN_BUCKETS])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A folder and the same buckets; some of them of an encrypted store."""
    with _in(request.param, request, monkeypatch) as found:
        yield found


@pytest.fixture(params=ENCRYPTED)
def encrypted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A folder and a bucket of an encrypted store."""
    with _in(request.param, request, monkeypatch) as found:
        yield found


@pytest.fixture
def store(place: Place) -> Store:
    """An empty store in each place."""
    return place.open()

"""Stores in every place that a store may lie in. SeaweedFS takes seconds to start, so it is asked at length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters_store import Store
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
    server, _, versioned = named.partition("-")
    endpoint: str = request.getfixturevalue(f"{server}_url")
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": endpoint}.items():
        monkeypatch.setenv(name, value)
    yield InBucket(client_of(endpoint), versioned == "versioned")


@pytest.fixture(params=["moto-versioned", *(each for each in IN_BUCKETS if "moto-versioned" not in each.values)])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[InBucket]:
    """A bucket of each server, with versions and without."""
    with _in_bucket(request.param, request, monkeypatch) as place:
        yield place


@pytest.fixture(params=["file", *IN_BUCKETS])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A folder, and the same buckets."""
    if request.param == "file":
        yield InFolder(tmp_path / "store")
        return
    with _in_bucket(request.param, request, monkeypatch) as bucket:
        yield bucket


@pytest.fixture
def store(place: Place) -> Store:
    """An empty store in each place."""
    return place.open()

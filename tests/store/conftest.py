"""Stores in every place that a store may lie in. SeaweedFS takes seconds to start, so it is asked at length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters_store import Store
from tests.servers import NotHere, moto_server, seaweedfs_server
from tests.store.places import CREDENTIALS, InBucket, InFolder, Place, client_of

IN_BUCKETS = [
    "moto",
    "moto-versioned",
    pytest.param("seaweedfs", marks=pytest.mark.thorough),
    pytest.param("seaweedfs-versioned", marks=pytest.mark.thorough),
]


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """The URL of a moto server, which ends with the session."""
    try:
        with moto_server() as url:
            yield url
    except NotHere as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def seaweedfs_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a SeaweedFS, which ends with the session."""
    try:
        with seaweedfs_server(tmp_path_factory.mktemp("seaweedfs")) as url:
            yield url
    except NotHere as missing:
        pytest.skip(str(missing))


@contextmanager
def _in_bucket(named: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[InBucket]:
    server, _, versioned = named.partition("-")
    endpoint: str = request.getfixturevalue(f"{server}_url")
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": endpoint}.items():
        monkeypatch.setenv(name, value)
    yield InBucket(client_of(endpoint), versioned == "versioned")


@pytest.fixture(params=IN_BUCKETS)
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

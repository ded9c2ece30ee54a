"""A deletion in an encrypted bucket of a server that keeps what was erased: nothing that is left opens it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from adapters_store import NotOpened, unwrap
from adapters_store.sealing import unseal
from service.forgetting.receipts import ReceiptSigner, verify
from tests.servers import NotHere, seaweedfs_server
from tests.store.places import CREDENTIALS, InBucket, client_of

from .conftest import BYSTANDER, SUBJECT, TITLES, Installation, eventually

pytestmark = pytest.mark.thorough

STORE_KEY = "0f" * 32
Keys = dict[str, bytes]  # directory -> the key that its files were sealed with


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where the server of buckets keeps its volumes."""
    return tmp_path / "seaweedfs"


@pytest.fixture
def bucket(disk: Path) -> Iterator[InBucket]:
    try:
        with seaweedfs_server(disk) as url:
            yield InBucket(client_of(url), versioned=True)
    except NotHere as missing:
        pytest.skip(str(missing))


def keys_of(installation: Installation) -> Keys:
    with closing(sqlite3.connect(installation.home / "ledger.sqlite")) as connection:
        rows = connection.execute("SELECT directory, wrapped_key FROM artifact_keys WHERE directory > ''")
        return {directory: unwrap(bytes.fromhex(STORE_KEY), bytes.fromhex(wrapped)) for directory, wrapped in rows}


def opens(keys: Keys, path: str, sealed: bytes) -> bool:
    """Whether any of these keys does, whichever directory it was for."""
    for key in keys.values():
        try:
            unseal(key, path, sealed)
        except NotOpened:
            continue
        return True
    return False


def test_what_the_servers_volumes_keep_of_the_erased_is_opened_by_no_key_that_is_left(
    installations: Callable[..., Installation], template: Installation, bucket: InBucket, disk: Path
) -> None:
    endpoint = bucket.client.meta.endpoint_url
    encrypted = {"LETHE_STORE_ENCRYPTION": "per-artifact", "LETHE_STORE_KEY": STORE_KEY}
    installed = installations(LETHE_STORE_URL=bucket.url, AWS_ENDPOINT_URL_S3=endpoint, **CREDENTIALS, **encrypted)
    installed.import_people()
    assert installed.build()["trained"] >= 3
    before, keys = {path: bucket.read(path) for path in bucket.paths()}, keys_of(installed)
    with installed.serving_ready() as server:
        accepted = server.post("/forget", {"user_id": SUBJECT}).json()
        server.completed(accepted["request_id"])
        eventually(
            lambda: server.get("/generation").json()["generation"] == template.first_generation,
            "the generation of a plain store that never knew the subject is served, byte for byte",
        )
        receipt = server.get(f"/forget/{accepted['request_id']}/receipt").text
        assert len(server.recommend(user_id=BYSTANDER, candidates=TITLES[:20], top_k=20)["items"]) == 20
    erasure = verify(receipt, ReceiptSigner.open(installed.home / "receipts.pem").public_key_pem())["erasure"]
    assert [erasure[name] for name in ("found", "versions", "uploads", "keys")] == [0, 0, 0, 0]
    assert bucket.kept() == bucket.paths()

    left = keys_of(installed)
    erased = {path: before[path] for path in before.keys() - set(bucket.paths()) if path.count("/") == 2}
    assert any(path.startswith("adapters/") for path in erased)
    assert any(path.startswith("memory/") for path in erased)
    volumes = b"".join(file.read_bytes() for file in sorted(disk.rglob("*.dat")))
    kept = {path: sealed for path, sealed in erased.items() if sealed in volumes}
    assert kept, "this server erases at once: then there was nothing to show"
    for path, sealed in kept.items():
        assert opens(keys, path, sealed)  # as it was before
        assert not opens(left, path, sealed)

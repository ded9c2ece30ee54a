"""A deletion from end to end with a store in a bucket that keeps every version, on a quick server and on a real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from service.forgetting.receipts import ReceiptSigner, verify
from tests.store.places import CREDENTIALS, InBucket, client_of

from .conftest import BYSTANDER, SUBJECT, TITLES, Installation, eventually

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module", params=["moto", "seaweedfs"])
def bucket(request: pytest.FixtureRequest) -> InBucket:
    return InBucket(client_of(request.getfixturevalue(f"{request.param}_url")), versioned=True)


@pytest.fixture(scope="module")
def installed(bucket: InBucket, installations: Callable[..., Installation]) -> Installation:
    endpoint = bucket.client.meta.endpoint_url
    return installations(LETHE_STORE_URL=bucket.url, AWS_ENDPOINT_URL_S3=endpoint, **CREDENTIALS)


def content_of(bucket: InBucket) -> dict[str, bytes]:
    return {path: bucket.read(path) for path in bucket.paths()}


def test_a_person_is_forgotten_and_no_version_of_what_knew_them_is_left(
    installed: Installation, bucket: InBucket, template: Installation, tmp_path: Path
) -> None:
    installed.import_people()
    assert installed.build()["trained"] >= 3
    assert bucket.kept() == bucket.paths()
    assert not (installed.home / "store").exists()
    before = content_of(bucket)

    with installed.serving() as server:
        eventually(server.ready, "what was built is served")
        named = server.recommend(user_id=BYSTANDER, candidates=TITLES[:20], top_k=20)
        assert len(named["items"]) == 20
        accepted = server.post("/forget", {"user_id": SUBJECT}).json()
        [gone] = accepted["affected_shards"]
        server.completed(accepted["request_id"])
        eventually(
            lambda: server.get("/generation").json()["generation"] == template.first_generation,
            "the generation of a house that never knew the subject is served, byte for byte",
        )
        receipt = server.get(f"/forget/{accepted['request_id']}/receipt").text
        assert len(server.recommend(user_id=BYSTANDER, candidates=TITLES[:20], top_k=20)["items"]) == 20

    erasure = verify(receipt, ReceiptSigner.open(installed.home / "receipts.pem").public_key_pem())["erasure"]
    assert (erasure["found"], erasure["versions"], erasure["uploads"]) == (0, 0, 0)
    assert erasure["files_searched"] >= len(bucket.paths())
    assert any(gone in path for path in before)
    assert bucket.kept() == bucket.paths()
    after = content_of(bucket)
    assert not any(gone in path or gone.encode() in content for path, content in after.items())
    assert {path: content for path, content in before.items() if path in after and path != "ACTIVE"} == {
        path: content for path, content in after.items() if path in before and path != "ACTIVE"
    }
    _verifies(installed, accepted["request_id"], tmp_path)


def _verifies(installed: Installation, request_id: str, tmp_path: Path) -> None:
    assert json.loads(installed.run("status", "--json").out)["store"] == "sound"
    looked_for = tmp_path / "texts"
    looked_for.write_text(f"{SUBJECT}\n")
    for options in (
        [],
        ["--rebuild"],
        ["--erasure", request_id],
        ["--erasure", request_id, "--look-for", str(looked_for)],
    ):
        done = installed.run("verify", *options)
        assert done.code == 0, done.err
    for path in (*installed.home.rglob("*"), installed.log):
        assert not path.is_file() or CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes(), path


def test_an_altered_object_is_told_and_made_again_to_the_same_bytes(installed: Installation, bucket: InBucket) -> None:
    sound = content_of(bucket)
    altered = next(path for path in sound if path.endswith("adapter_model.safetensors"))
    bucket.write(altered, b"altered")
    assert "digest that is stated" in json.loads(installed.run("status", "--json").out)["store"]
    assert installed.build()["trained"] == 1
    assert content_of(bucket) == sound
    assert bucket.kept() == bucket.paths()


def test_a_bucket_that_is_not_there_is_one_line(
    installed: Installation, installations: Callable[..., Installation]
) -> None:
    settings = {name: installed.environment[name] for name in ("AWS_ENDPOINT_URL_S3", *CREDENTIALS)}
    done = installations(LETHE_STORE_URL="s3://no-such-bucket-here/lethe", **settings).run("status")
    assert done.code == 1
    assert "create it, or correct LETHE_STORE_URL" in " ".join(done.err.split())
    assert "Traceback" not in done.err

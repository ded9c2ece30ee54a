"""A store in a bucket: of many one wins, a death at any request is made good, and what is erased leaves no version behind."""

from __future__ import annotations

import itertools
import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from adapters_store import (
    DamagedArtifact,
    Inspector,
    Remains,
    Store,
    StoreFailure,
    digest_of,
    open_store,
)
from adapters_store.bucket import Bucket
from adapters_store.cache import ReadCache
from adapters_store.s3 import S3Objects
from service.forgetting.erasure import ErasureAudit
from tests.store.places import CREDENTIALS, InBucket

pytestmark = pytest.mark.thorough

RACERS = 16
ADAPTER, OTHER, MEMORY = (digest_of(name) for name in ("adapter", "other", "memory"))
FILES = {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}"}


@pytest.fixture
def store(bucket: InBucket) -> Store:
    return bucket.open()


def objects_of(bucket: InBucket) -> S3Objects:
    return S3Objects(bucket.bucket, bucket.prefix)


def generation_of(store: Store, name: str, adapters: Collection[str] = (ADAPTER,)) -> str:
    """A generation as a build makes it: artifacts first, then the manifest that states their files."""
    stated = [{"digest": digest, "files": store.adapters.add(digest, FILES)} for digest in adapters]
    memory = {"digest": MEMORY, "files": store.memories.add(MEMORY, {"items.json": b"[]"})}
    return store.add_generation({"adapters": stated, "memories": [memory], "name": name}, {"rows.json": b"[]"})


def race(runs: Callable[[int], Any]) -> list[Any]:
    """What each of the racers returns, or the StoreFailure that it got."""
    line = threading.Barrier(RACERS)

    def run(number: int) -> Any:
        line.wait()
        try:
            return runs(number)
        except StoreFailure as failure:
            return failure

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS)))


# Races


def test_of_many_who_create_an_object_one_wins(bucket: InBucket) -> None:
    objects = objects_of(bucket)
    tags = race(lambda number: objects.create("FORMAT", b"%d" % number))
    [winner] = [number for number, tag in enumerate(tags) if tag is not None]
    assert bucket.read("FORMAT") == b"%d" % winner
    assert bucket.kept() == ["FORMAT"]


def test_of_many_who_make_the_same_artifact_all_succeed_and_each_object_was_written_once(
    bucket: InBucket, store: Store
) -> None:
    sums = race(lambda _: store.adapters.add(ADAPTER, FILES))
    assert all(each == sums[0] for each in sums)
    store.adapters.verify(ADAPTER, sums[0])
    assert bucket.kept() == bucket.paths()


def test_of_some_who_make_it_of_other_bytes_one_is_there_in_the_end_and_whole(bucket: InBucket, store: Store) -> None:
    """Which law 1 forbids them; and if they do, readers still see the bytes of one of them, or find it damaged."""
    race(lambda number: store.adapters.add(ADAPTER, {"a": b"%d" % (number % 2), "b": b"%d" % (number % 2)}))
    store.adapters.add(ADAPTER, {"a": b"0", "b": b"0"})
    sums = store.adapters.sums(ADAPTER)
    assert store.adapters.stated(ADAPTER, sums).read() == {"a": b"0", "b": b"0"}


def test_of_many_who_swap_the_same_record_one_wins_and_the_others_are_told(store: Store) -> None:
    store.publish(generation_of(store, "before"))
    swaps = [store.backend.swap("ACTIVE") for _ in range(RACERS)]
    ids = [digest_of(number) for number in range(RACERS)]
    outcomes = race(lambda number: swaps[number](f"{ids[number]}\n".encode()))
    [winner] = [number for number, failure in enumerate(outcomes) if failure is None]
    assert store.active() == ids[winner]
    assert {str(failure) for failure in outcomes if failure is not None} == {
        "another process has replaced ACTIVE meanwhile; what it says now holds"
    }


def test_a_swap_whose_answer_was_lost_is_done(store: Store) -> None:
    for before in ([], [generation_of(store, "before")]):
        for generation in before:
            store.publish(generation)
        first, second = store.backend.swap("ACTIVE"), store.backend.swap("ACTIVE")
        content = f"{digest_of(before)}\n".encode()
        first(content)
        second(content)  # as boto3 asks again when the connection broke
        assert store.active() == digest_of(before)


class Refusing:
    """A client whose next calls of a method are answered with an error."""

    def __init__(self, client: Any, method: str, codes: Iterator[str]) -> None:
        self._client, self._method, self._codes = client, method, codes

    def __getattr__(self, name: str) -> Any:
        code = next(self._codes, None) if name == self._method else None
        if code is None:
            return getattr(self._client, name)

        def refuse(**_arguments: Any) -> Any:
            secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
            raise ClientError({"Error": {"Code": code, "Message": f"quotes {secret}"}}, name)

        return refuse


class Answering:
    """A client one of whose methods gives an answer that the server would not."""

    def __init__(self, client: Any, method: str, answer: dict[str, Any]) -> None:
        self._client, self._method, self._answer = client, method, answer

    def __getattr__(self, name: str) -> Any:
        return (lambda **_: self._answer) if name == self._method else getattr(self._client, name)


def objects_by(bucket: InBucket, client: object) -> S3Objects:
    return S3Objects(bucket.bucket, bucket.prefix, client)


def refusing(bucket: InBucket, method: str, *codes: str) -> S3Objects:
    return objects_by(bucket, Refusing(bucket.client, method, iter(codes)))


def test_a_conflict_is_read_again(bucket: InBucket) -> None:
    """409: another conditional write to the same object was under way, and may have failed."""
    backend = Bucket(refusing(bucket, "put_object", "ConditionalRequestConflict", "PreconditionFailed"), ReadCache(0))
    backend.put(f"adapters/{ADAPTER}", FILES, "adapter")
    assert bucket.read(f"adapters/{ADAPTER}/adapter_model.safetensors") == b"weights"


# Deaths


class Death(BaseException):
    """The process is gone: nothing of it runs any more."""


class Mortal:
    """Objects whose process dies when it is about to ask for the so-manieth time, all before having been carried out."""

    def __init__(self, objects: S3Objects, dies_at: int) -> None:
        self._objects, self._left = objects, dies_at

    def __getattr__(self, name: str) -> Any:
        ask = getattr(self._objects, name)

        def asked(*arguments: Any) -> Any:
            self._left -= 1
            if not self._left:
                raise Death
            return ask(*arguments)

        return asked


def make_next(store: Store) -> str:
    """A pass of a worker: what is new, its note, the generation, the publication, and the erasure of all else."""
    store.adapters.add(OTHER, FILES)
    store.adapters.write_note(OTHER, "vouched for")
    new = generation_of(store, "new", (OTHER,))
    store.publish(new)
    store.erase_except([OTHER], [MEMORY], [new])
    return new


def test_a_death_at_any_request_leaves_a_whole_generation_and_the_next_pass_makes_it_good(bucket: InBucket) -> None:
    sound = bucket.open()
    for at in itertools.count(1):
        old = generation_of(sound, "old")
        sound.publish(old)
        mortal: Any = Mortal(objects_of(bucket), at)
        try:
            make_next(Store(Bucket(mortal, ReadCache(0))))
        except Death:
            active = sound.active()
            assert active is not None
            assert sound.generation(active).manifest["name"] == ("old" if active == old else "new")
            new = make_next(sound)
            assert sound.active() == new
            assert bucket.kept() == bucket.paths()
        else:
            assert at > 40  # so many requests a pass takes, and each of them was the last of one
            assert Inspector(sound).look(new).clean
            return


# What erasing leaves


def clutter(bucket: InBucket, store: Store) -> None:
    """Whatever a bucket may keep: records written over, deletions by others, uploads that nobody completed."""
    for line in ("first", "second"):
        store.adapters.write_note(ADAPTER, line)
    store.adapters.add(OTHER, {"of_somebody": b"a needle"})
    bucket.remove(f"adapters/{OTHER}")
    bucket.begin_upload(f"adapters/{OTHER}/large", b"parts of a needle")


def test_erasing_leaves_no_version_and_no_upload(bucket: InBucket, store: Store) -> None:
    for name in ("first", "second", "third"):
        published = generation_of(store, name)
        store.publish(published)
    clutter(bucket, store)
    assert store.remains() != Remains(0, 0)
    assert store.abandoned() > 0
    store.erase_except([ADAPTER], [MEMORY], [published])
    assert store.remains() == Remains(0, 0)
    assert store.abandoned() == 0
    assert bucket.kept() == bucket.paths()
    assert not any(OTHER in key or key.endswith(".note") for key in bucket.kept())
    assert Inspector(store).look(published).clean


def test_versions_and_uploads_are_found_by_a_look_and_by_a_search(bucket: InBucket, store: Store) -> None:
    published = generation_of(store, "published")
    store.publish(published)
    inspector = Inspector(store)
    assert inspector.look(published).clean
    bucket.begin_upload(f"adapters/{OTHER}/large", b"parts")
    assert (inspector.look(published).leftovers, store.remains()) == (1, Remains(versions=0, uploads=1))
    store.erase_except([ADAPTER], [MEMORY], [published])
    assert inspector.look(published).clean
    clutter(bucket, store)
    kept = sum(path.endswith("of_somebody") for path in bucket.kept()) - 1  # and its marker
    assert len(store.search([b"a needle"]).hits) == max(kept, 0)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "SHA256SUMS"])
def test_a_damaged_object_is_found_and_made_again(bucket: InBucket, store: Store, name: str) -> None:
    published = generation_of(store, "published")
    store.publish(published)
    known = Inspector(store)
    assert known.look(published).clean
    for change in (lambda path: bucket.write(path, b"altered"), bucket.remove):
        change(f"adapters/{ADAPTER}/{name}")
        for inspector in (known, Inspector(store)):
            [fault] = inspector.look(published).faults
            assert (fault.kind, fault.name) == ("adapter", ADAPTER)
        store.adapters.remove(ADAPTER)
        assert generation_of(store, "published") == published
        store.erase_except([ADAPTER], [MEMORY], [published])
        assert known.look(published).clean


def test_a_look_reads_everything_once_and_then_what_was_written_since(bucket: InBucket, store: Store) -> None:
    published = generation_of(store, "published")
    store.publish(published)
    inspector = Inspector(store, bytes_a_look=0)
    size = sum(len(bucket.read(path)) for path in bucket.paths() if "/" in path)
    assert inspector.look(published).bytes_read == size
    assert inspector.look(published).bytes_read == 0
    assert inspector.look(published, whole=True).bytes_read == size


# Buckets that keep what is erased


def test_a_bucket_that_keeps_what_is_erased_is_refused_unless_told(bucket: InBucket) -> None:
    told: list[tuple[str, dict[str, Any], str]] = [
        ("get_object_lock_configuration", {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}, "Object Lock"),
        ("get_bucket_replication", {"ReplicationConfiguration": {"Rules": [{"ID": "elsewhere"}]}}, "replicated"),
        ("get_bucket_versioning", {"MFADelete": "Enabled"}, "MFA"),
    ]
    for method, answer, named in told:
        objects = objects_by(bucket, Answering(bucket.client, method, answer))
        with pytest.raises(StoreFailure, match=rf"{named}.*choose another bucket, or set LETHE_STORE_COPIES"):
            objects.require_erasable(copies_may_stay=False)
        objects.require_erasable(copies_may_stay=True)


def test_a_bucket_with_object_lock_is_refused(bucket: InBucket) -> None:
    locked = f"{bucket.bucket}-locked"
    bucket.client.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    with pytest.raises(StoreFailure, match="Object Lock"):
        open_store(f"s3://{locked}/lethe", Path("nowhere"))
    open_store(f"s3://{locked}/lethe", Path("nowhere"), copies_may_stay=True)


# What is wrong is said


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AccessDenied", "do not give this right"),
        ("InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
        ("ExpiredToken", "renew them"),
        ("PermanentRedirect", "another region"),
        ("Unheard", "the server answers Unheard"),
    ],
)
def test_a_refusal_says_what_to_do_and_quotes_nothing(bucket: InBucket, code: str, advice: str) -> None:
    objects = refusing(bucket, "list_object_versions", code)
    with pytest.raises(StoreFailure, match=advice) as refused:
        objects.require_erasable(copies_may_stay=False)
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(refused.value)
    assert refused.value.__cause__ is None


def test_versions_that_the_server_keeps_all_the_same_are_told(bucket: InBucket, store: Store) -> None:
    store.adapters.add(ADAPTER, FILES)
    answer = {"Errors": [{"Key": "adapters", "Code": "AccessDenied"}]}
    objects = objects_by(bucket, Answering(bucket.client, "delete_objects", answer))
    with pytest.raises(StoreFailure, match="1 are still there; the credentials do not give this right"):
        Bucket(objects, ReadCache(0)).remove(f"adapters/{ADAPTER}")


def test_a_bucket_that_is_not_there_is_named(bucket: InBucket) -> None:
    with pytest.raises(StoreFailure, match=r"s3://no-such-bucket-here/lethe.*(create it|LETHE_STORE_URL|not give)"):
        open_store("s3://no-such-bucket-here/lethe", Path("nowhere"))


def test_credentials_that_are_not_there_are_named(bucket: InBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(StoreFailure, match="there are no credentials: set AWS_ACCESS_KEY_ID"):
        open_store(bucket.url, Path("nowhere"))


def test_a_server_that_does_not_answer_is_named(bucket: InBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreFailure, match=r"the server does not answer .*AWS_ENDPOINT_URL_S3"):
        open_store(bucket.url, Path("nowhere"))


def test_settings_that_boto3_refuses_are_named(bucket: InBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreFailure, match="boto3 refuses its settings"):
        open_store(bucket.url, Path("nowhere"))


def test_what_boto3_says_of_its_requests_is_in_no_log(
    bucket: InBucket, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        store.publish(generation_of(store, "published"))
    assert [record.name for record in caplog.records if record.name.startswith(("boto", "urllib3"))] == []


FORKS = """
import os, sys
from adapters_store.s3 import S3Objects
objects = S3Objects(sys.argv[1], sys.argv[2])
contents = {"one": b"1" * 50_000, "other": b"2" * 70_000}
for key, content in contents.items():
    objects.write(key, content)
child = os.fork()
own = "one" if child == 0 else "other"
for _ in range(100):
    assert objects.get(own).content == contents[own]
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_fork_and_its_parent_do_not_get_each_others_answers(bucket: InBucket) -> None:
    asked = [sys.executable, "-W", "ignore", "-c", FORKS, bucket.bucket, bucket.prefix]
    ran = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_there_is_no_folder_of_a_bucket(store: Store) -> None:
    store.adapters.add(ADAPTER, FILES)
    with pytest.raises(StoreFailure, match="lies in a bucket"):
        store.adapters.path(ADAPTER)


def test_a_bucket_without_boto3_says_what_to_install() -> None:
    with pytest.raises(StoreFailure, match=r"pip install 'lethe\[s3\]'"):
        open_store("s3://bucket/prefix", Path("nowhere"), find=lambda _: None)


# The cache


def test_what_was_read_comes_out_of_the_cache_by_its_digest_and_goes_with_its_artifact(
    bucket: InBucket, store: Store
) -> None:
    sums = store.adapters.add(ADAPTER, FILES)
    stated = store.adapters.stated(ADAPTER, sums)
    assert stated.read() == FILES
    bucket.write(f"adapters/{ADAPTER}/adapter_model.safetensors", b"altered")
    assert stated.read() == FILES  # the bytes that the manifest states
    with pytest.raises(DamagedArtifact):  # and whoever looks at the bucket sees what is there
        store.adapters.verify(ADAPTER, sums)
    with pytest.raises(DamagedArtifact):  # a copy in another process has no cache
        pickle.loads(pickle.dumps(stated)).read()  # noqa: S301
    store.adapters.remove(ADAPTER)
    backend = store.backend
    assert isinstance(backend, Bucket)
    assert backend._cache.size == 0


def test_the_cache_keeps_nothing_of_what_is_not_served(store: Store) -> None:
    for digest in (ADAPTER, OTHER):
        store.adapters.stated(digest, store.adapters.add(digest, FILES)).read()
    backend = store.backend
    assert isinstance(backend, Bucket)
    both = backend._cache.size
    store.forget_except([OTHER], [], digest_of("generation"))
    assert backend._cache.size == both / 2
    store.forget_read()
    assert backend._cache.size == 0


# What a receipt states


def test_a_receipt_states_versions_and_uploads_of_an_object_store_alone() -> None:
    in_folder = ErasureAudit(0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1)
    assert "versions" not in in_folder.stated()
    in_bucket = ErasureAudit(0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, remains=Remains(0, 0))
    assert in_bucket.stated() == in_folder.stated() | {"versions": 0, "uploads": 0}

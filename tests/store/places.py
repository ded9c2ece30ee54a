"""Places for a store, as whoever damages one sees them: a folder, and buckets of two servers."""

from __future__ import annotations

import shutil
import uuid
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import boto3

from adapters_store import DirectoryKeys, Store, open_store

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}


class Place(Protocol):
    """Where one test's store lies, and ways around the store."""

    url: str
    keys: DirectoryKeys | None  # None: the store is not encrypted

    def open(self) -> Store: ...

    def paths(self) -> list[str]:
        """Of all files, sorted."""
        ...

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, content: bytes) -> None: ...

    def remove(self, path: str) -> None: ...


class InFolder:
    """A folder of this machine."""

    def __init__(self, root: Path, keys: DirectoryKeys | None = None) -> None:
        self.root, self.url, self.keys = root, f"file://{root}", keys

    def open(self) -> Store:
        return open_store(self.url, self.root, keys=self.keys)

    def paths(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        (self.root / path).parent.mkdir(exist_ok=True)
        (self.root / path).write_bytes(content)

    def remove(self, path: str) -> None:
        at = self.root / path
        if at.is_dir():
            shutil.rmtree(at)
        else:
            at.unlink()


class InBucket:
    """A prefix of its own in a bucket of a server, which keeps versions or does not."""

    def __init__(self, client: Any, versioned: bool, keys: DirectoryKeys | None = None) -> None:
        # One bucket for all tests: to a SeaweedFS each is a collection with files of its own on the disk.
        self.bucket = "tests-versioned" if versioned else "tests"
        self.client, self.prefix, self.keys = client, f"{uuid.uuid4().hex}/store", keys
        self.url = f"s3://{self.bucket}/{self.prefix}"
        if self.bucket not in {each["Name"] for each in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=self.bucket)
            if versioned:
                client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})

    def open(self) -> Store:
        return open_store(self.url, Path("nowhere"), cache_bytes=2**20, keys=self.keys)

    def paths(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        return sorted(each["Key"][len(self.prefix) + 1 :] for page in pages for each in page.get("Contents", ()))

    def read(self, path: str) -> bytes:
        content: bytes = self.client.get_object(**self.at(path))["Body"].read()
        return content

    def write(self, path: str, content: bytes) -> None:
        self.client.put_object(**self.at(path), Body=content)

    def remove(self, path: str) -> None:
        for found in [path] if path in self.paths() else [each for each in self.paths() if each.startswith(f"{path}/")]:
            self.client.delete_object(**self.at(found))

    def at(self, path: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{path}"}

    def kept(self) -> list[str]:
        """The keys of all versions and markers that the bucket holds under the prefix, and of uploads under way."""
        answer = self.client.list_object_versions(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        uploads = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=f"{self.prefix}/").get("Uploads", ())
        found = [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ()), *uploads]
        return sorted(each["Key"][len(self.prefix) + 1 :] for each in found)

    def begin_upload(self, path: str, content: bytes) -> None:
        """A multipart upload that nobody completes."""
        upload = self.client.create_multipart_upload(**self.at(path))["UploadId"]
        self.client.upload_part(**self.at(path), UploadId=upload, PartNumber=1, Body=content)


@cache
def client_of(endpoint: str) -> Any:
    """A client of a server's buckets."""
    key, secret, region = CREDENTIALS.values()
    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name=region
    )

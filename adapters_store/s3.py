"""The objects of an S3-compatible server, asked for by boto3: the only file that imports it (the extra `s3` installs it).

Server, region and credentials are what boto3's own variables, files and roles say (`AWS_ENDPOINT_URL_S3`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, …); none of them is ever told to anybody, in an error or in a log.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from adapters_store.files import StoreFailure
from adapters_store.objects import ObjectVersion, PendingUpload, StoredObject

_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409", "OperationAborted")
_NOT_THERE = ("NoSuchKey", "NoSuchVersion", "404", "NotFound")
_UNKNOWN_TO_SERVER = ("NotImplemented", "MethodNotAllowed", "501", "405")
_NOT_SET = (
    "ObjectLockConfigurationNotFoundError",
    "ReplicationConfigurationNotFoundError",
    "NoSuchReplicationConfiguration",
    *_UNKNOWN_TO_SERVER,
)
_ERASED_AT_ONCE = 1000  # versions in one request, as many as S3 takes
_ADVICE = {
    "NoSuchBucket": "there is no bucket of this name: create it, or correct LETHE_STORE_URL",
    "InvalidBucketName": "this is no name of a bucket: correct LETHE_STORE_URL",
    "AccessDenied": "the credentials do not give this right: grant it (docs/object-storage.md lists what Lethe needs)",
    "AllAccessDisabled": "the bucket is disabled: ask whoever runs the object store",
    "InvalidAccessKeyId": "the server does not know the access key: check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is not that of the access key: check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the credentials have expired: renew them",
    "InvalidToken": "the session token is not valid: check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clocks of this machine and of the server differ: set them",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION, or AWS_ENDPOINT_URL_S3",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
    "SlowDown": "the server is overloaded: it is tried again",
}
_ADVICE |= {"403": _ADVICE["AccessDenied"], "Forbidden": _ADVICE["AccessDenied"], "301": _ADVICE["PermanentRedirect"]}

# At DEBUG, which whoever looks for a fault may set for everything, these write down headers, and so signatures and tokens.
for _name in ("boto3", "botocore", "s3transfer", "urllib3"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class S3Objects:
    """All objects under one prefix of one bucket; it meets `Objects`. Threads share it; processes may be sent it, or forked."""

    def __init__(self, bucket: str, prefix: str, client: Any = None) -> None:
        """`prefix` has neither a first nor a final slash. Nothing is asked of the server yet. Raises `StoreFailure`.

        `client` is one of boto3's for S3; by default one that boto3's own settings make.
        """
        self._bucket, self._prefix = bucket, prefix
        self._in_bucket: dict[str, Any] = {"Bucket": bucket}
        with self._told("open the store"):
            self._opened: Any = _new_client() if client is None else client
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[S3Objects], tuple[str, str]]:
        # Credentials do not travel: each process finds its own.
        return S3Objects, (self._bucket, self._prefix)

    @property
    def _client(self) -> Any:
        # A fork has its parent's connections: two that speak over one get each other's answers.
        if self._process != os.getpid():
            self._opened, self._process = _new_client(), os.getpid()
        return self._opened

    @property
    def where(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._prefix}"

    def get(self, key: str, version: str | None = None) -> StoredObject | None:
        """One request."""
        wanted = {} if version is None else {"VersionId": version}
        with self._told("read an object"):
            try:
                found = self._client.get_object(**self._at(key), **wanted)
                return StoredObject(found["Body"].read(), found["ETag"])
            except ClientError as error:
                if _code(error) in _NOT_THERE:
                    return None
                raise

    def create(self, key: str, content: bytes) -> str | None:
        """PutObject with `If-None-Match: *`."""
        return self._put_if(key, content, IfNoneMatch="*")

    def replace(self, key: str, content: bytes, tag: str) -> str | None:
        """PutObject with `If-Match`."""
        return self._put_if(key, content, IfMatch=tag)

    def write(self, key: str, content: bytes) -> None:
        """PutObject."""
        with self._told("write an object"):
            self._client.put_object(**self._at(key), Body=content)

    def versions(self, prefix: str = "") -> Iterator[ObjectVersion]:
        """ListObjectVersions, which a bucket without versions answers, too: each object has the version `null` there."""
        start = len(self._key(""))
        with self._told("list the objects"):
            pages = self._client.get_paginator("list_object_versions").paginate(
                **self._in_bucket, Prefix=self._key(prefix)
            )
            for page in pages:
                for each in page.get("Versions", ()):
                    yield ObjectVersion(
                        key=each["Key"][start:],
                        version=each["VersionId"],
                        shown=each["IsLatest"],
                        marker=False,
                        tag=each["ETag"],
                        size=each["Size"],
                        modified=each["LastModified"].isoformat(),
                    )
                for each in page.get("DeleteMarkers", ()):
                    yield ObjectVersion(each["Key"][start:], each["VersionId"], each["IsLatest"], marker=True)

    def erase(self, versions: Sequence[ObjectVersion]) -> None:
        """DeleteObjects by version, a thousand at a time. What is gone already is fine."""
        for first in range(0, len(versions), _ERASED_AT_ONCE):
            some = versions[first : first + _ERASED_AT_ONCE]
            doomed = [{"Key": self._key(each.key), "VersionId": each.version} for each in some]
            with self._told("delete objects"):
                answer = self._client.delete_objects(**self._in_bucket, Delete={"Objects": doomed, "Quiet": True})
            refused = [each for each in answer.get("Errors", ()) if each.get("Code") not in _NOT_THERE]
            if refused:
                code = str(refused[0].get("Code"))
                raise StoreFailure(self._said("delete objects", f"{len(refused)} are still there; {_advice(code)}"))

    def uploads(self) -> list[PendingUpload]:
        """ListMultipartUploads."""
        start = len(self._key(""))
        with self._told("list multipart uploads"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                **self._in_bucket, Prefix=self._key("")
            )
            found = [each for page in pages for each in page.get("Uploads", ())]
        return [PendingUpload(each["Key"][start:], each["UploadId"]) for each in found]

    def abort(self, upload: PendingUpload) -> None:
        """AbortMultipartUpload."""
        with self._told("abort a multipart upload"):
            try:
                self._client.abort_multipart_upload(**self._at(upload.key), UploadId=upload.upload)
            except ClientError as error:
                if _code(error) not in ("NoSuchUpload", *_NOT_THERE):
                    raise

    def require_erasable(self, copies_may_stay: bool) -> None:
        """A listing under the prefix, as a right may end there; then Object Lock, replication and MFA for deletions."""
        with self._told("use the bucket"):
            self._client.list_object_versions(**self._in_bucket, Prefix=self._key(""), MaxKeys=1)
        if copies_may_stay:
            return
        if self._setting("get_object_lock_configuration", "ObjectLockConfiguration").get("ObjectLockEnabled"):
            raise StoreFailure(self._kept("has Object Lock, so what a deletion erases may have to stay"))
        if self._setting("get_bucket_replication", "ReplicationConfiguration").get("Rules"):
            raise StoreFailure(self._kept("is replicated, so copies of what a deletion erases stay elsewhere"))
        if self._setting("get_bucket_versioning", "MFADelete") == "Enabled":
            raise StoreFailure(self._kept("deletes versions only with MFA, which no worker has"))

    def _put_if(self, key: str, content: bytes, **condition: str) -> str | None:
        with self._told("write an object"):
            try:
                tag: str = self._client.put_object(**self._at(key), Body=content, **condition)["ETag"]
            except ClientError as error:
                if _code(error) in _TAKEN or (_code(error) in _NOT_THERE and "IfMatch" in condition):
                    return None
                raise
        return tag

    def _setting(self, method: str, name: str) -> Any:
        with self._told(f"ask {method.removeprefix('get_').replace('_', ' ')} of the bucket"):
            try:
                return getattr(self._client, method)(**self._in_bucket).get(name, {})
            except ClientError as error:
                if _code(error) in _NOT_SET:
                    return {}
                raise

    def _kept(self, why: str) -> str:
        return (
            f"the bucket of {self.where} {why}; choose another bucket, or set LETHE_STORE_COPIES=yes-copies-may-stay, and "
            "account for them yourself"
        )

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _at(self, key: str) -> dict[str, Any]:
        return {**self._in_bucket, "Key": self._key(key)}

    def _said(self, action: str, why: str) -> str:
        return f"cannot {action} ({self.where}): {why}"

    @contextmanager
    def _told(self, action: str) -> Iterator[None]:
        """Turn errors of boto3 into `StoreFailure`s. Their texts, which may quote what was sent, are not repeated."""
        try:
            yield
        except ClientError as error:
            raise StoreFailure(self._said(action, _advice(_code(error)))) from None
        except (NoCredentialsError, PartialCredentialsError):
            raise StoreFailure(
                self._said(
                    action,
                    "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role",
                )
            ) from None
        except (ConnectionError, HTTPClientError) as error:
            why = f"the server does not answer ({type(error).__name__}): check AWS_ENDPOINT_URL_S3, and the network"
            raise StoreFailure(self._said(action, why)) from None
        except (BotoCoreError, ValueError) as error:
            why = f"boto3 refuses its settings ({type(error).__name__}): check the AWS_ variables and files"
            raise StoreFailure(self._said(action, why)) from None


@cache
def _definitions() -> Any:
    """What boto3 knows of S3's interface: a tenth of a second to read, so a process does it once."""
    return botocore.session.Session().get_component("data_loader")


def _new_client() -> Any:
    # With a session of its own: credentials and settings are those that the process has when it opens the store.
    session = botocore.session.Session()
    session.register_component("data_loader", _definitions())
    config = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard"}, user_agent_extra="lethe")
    return boto3.session.Session(botocore_session=session).client("s3", config=config)


def _code(error: ClientError) -> str:
    code: str = error.response.get("Error", {}).get("Code", "")
    return code


def _advice(code: str) -> str:
    return _ADVICE.get(code, f"the server answers {code or 'with an error that has no name'}")

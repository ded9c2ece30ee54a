"""Where a store lies, by its URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters_store import StoreUrl, open_store

WRONG = [
    "",
    "store",
    "/srv/store",
    "http://bucket/prefix",
    "file://",
    "file:///",
    "file://elsewhere/srv/store",
    "file:srv/store",
    "s3://",
    "s3://bucket",
    "s3://bucket/",
    "s3://Bucket_/prefix",
    "s3://bucket/../prefix",
    "s3://bucket/a//b",
    "s3://key:hunter2@bucket/prefix",
    "s3://bucket/prefix?secret=hunter2",
    "s3://bucket/prefix#hunter2",
]


@pytest.mark.parametrize("url", WRONG)
def test_what_is_no_url_of_a_store_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected|has no user") as refused:
        StoreUrl.parse(url)
    assert "hunter2" not in str(refused.value)


def test_a_url_names_a_folder_or_a_prefix_of_a_bucket(tmp_path: Path) -> None:
    assert StoreUrl.parse("file:///srv/le%20the") == StoreUrl(path=Path("/srv/le the"))
    assert StoreUrl.parse("s3://my-bucket/team/lethe/") == StoreUrl(bucket="my-bucket", prefix="team/lethe")
    assert open_store(f"file://{tmp_path}/there", tmp_path / "default").root == tmp_path / "there"
    assert open_store(None, tmp_path / "default").root == tmp_path / "default"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["default", "there"]

"""Files of a disk as objects of a bucket on the tests' S3 server, under whatever keys."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import boto3


def client() -> Any:
    """A client that takes any key, as other programs' do."""
    url = os.environ["AWS_ENDPOINT_URL"]
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1")


def uploaded(folder: Path, bucket: str) -> str:
    """The URL of a new place in `bucket` that holds the files of `folder`."""
    place, sender = uuid.uuid4().hex, client()
    for path in (path for path in folder.rglob("*") if path.is_file()):
        key = f"{place}/{path.relative_to(folder).as_posix()}"
        sender.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    return f"s3://{bucket}/{place}"


def put(url: str, key: str, content: bytes = b"x") -> None:
    """Store an object below a URL of `uploaded`, its key taken letter by letter."""
    bucket, _, place = url.removeprefix("s3://").partition("/")
    client().put_object(Bucket=bucket, Key=f"{place}/{key}", Body=content)

"""Stores by address: local folders, memory and buckets behind one URL syntax."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numcodecs.blosc
import zarr

from unet_batch.errors import SpecError
from unet_batch.storage.bucket_store import REMOTE_SCHEMES, open_bucket
from unet_batch.storage.folder_store import open_folder
from unet_batch.storage.object_store import ObjectStore


def normalize_url(url: str | Path) -> str:
    """`url` in the one form used everywhere: an absolute path, or `scheme://...`.

    A path stays valid in a worker whose current folder is another. Raises SpecError for an
    unknown scheme, and for credentials in the URL.
    """
    text = str(url).rstrip("/") or "/"
    if text.startswith("/"):
        return os.path.abspath(text)  # noqa: PTH100  (no look at the disk)
    parts = urlsplit(text)
    if parts.scheme == "file":
        return os.path.abspath(unquote(parts.path))  # noqa: PTH100  (no look at the disk)
    if "://" not in text:
        return os.path.abspath(Path(text).expanduser())  # noqa: PTH100
    if parts.scheme not in (*REMOTE_SCHEMES, "memory"):
        raise SpecError(
            f"unknown address {parts.scheme}://...: expected a path, file://, memory://, "
            + ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)
        )
    if parts.username or parts.password or parts.query:
        raise SpecError(
            f"{parts.scheme}://{parts.hostname}: credentials and options do not belong in an "
            "address; set them in the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    return text


def open_store(url: str | Path) -> ObjectStore:
    """The store at `url` (path, file://, memory://, s3://, gs://, az://); touches nothing yet.

    A process holds one store for each address; `memory://name` lives as long as the process.
    """
    url = normalize_url(url)
    return open_bucket(url) if "://" in url else open_folder(url)


def is_far(url: str | Path) -> bool:
    """Whether each answer of the store at `url` is waited for: a bucket, not this machine."""
    return open_store(url).is_far


def limit_zarr_threads(num_threads: int = 1) -> None:
    """Let zarr-python use `num_threads` threads in this process.

    For workers that share a machine: its defaults are 10 concurrent requests and unlimited
    threads a process.
    """
    zarr.config.set({"async.concurrency": num_threads, "threading.max_workers": num_threads})
    numcodecs.blosc.set_nthreads(num_threads)
